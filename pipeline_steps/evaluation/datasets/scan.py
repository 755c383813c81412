"""Retrieval sets from SCAN's split files, as NPC lays them out."""

from __future__ import annotations

from pathlib import Path

from pipeline_steps.core.schema.datasets import ScanSource
from pipeline_steps.data.scan_split import IMAGES, LISTS, scan_pairs_of
from pipeline_steps.evaluation.datasets.captions import caption_entries
from pipeline_steps.evaluation.datasets.source import AbsentError, SourceSet, SourceSplit, placed, roots_of


def read_scan(source: ScanSource, root: Path) -> SourceSet:
    """Pictures in the order of their ids, each with its captions. Raises AbsentError without its test split."""
    folder = placed(source.folder, root)
    images, lists, splits, missing = folder / IMAGES, folder / LISTS, {}, {}
    for name, own in source.splits.items():
        absent = [path for path in (images, lists / f"{own}_ids.txt", lists / f"{own}_caps.txt") if not path.exists()]
        if absent and name == "test":
            raise AbsentError(f"{absent[0]} does not exist")
        if absent:
            missing[name] = f"{absent[0]} does not exist"
            continue
        captions: dict[str, list[str]] = {}
        for file, caption in scan_pairs_of(folder, own, source.pictures):
            captions.setdefault(file, []).append(caption)
        entries = caption_entries(captions, images, lists / f"{own}_ids.txt", roots_of(source, root))
        splits[name] = SourceSplit(own, images, entries)
    return SourceSet(f"scan: {folder}", splits, missing=missing)
