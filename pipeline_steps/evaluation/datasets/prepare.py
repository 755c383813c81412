"""One evaluation set from its row to a prepared folder, or to a named hole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline_steps.core.config import ConfigError, load_section, read_yaml
from pipeline_steps.core.errors import FullDiskError, PipelineError, without_control
from pipeline_steps.core.files import whole_folder, write_json
from pipeline_steps.core.schema import DatasetRow
from pipeline_steps.core.schema.datasets import (
    CaptionsCsvSource,
    ClipBenchmarkSource,
    KarpathySource,
    NcuSource,
    ParquetSource,
    ScanSource,
    WebdatasetSource,
)
from pipeline_steps.evaluation.datasets.builder import read_clip_benchmark
from pipeline_steps.evaluation.datasets.captions import read_captions_csv, read_karpathy
from pipeline_steps.evaluation.datasets.names import chosen_names
from pipeline_steps.evaluation.datasets.ncu import read_ncu
from pipeline_steps.evaluation.datasets.parquet import read_parquet
from pipeline_steps.evaluation.datasets.prepared import FACTS
from pipeline_steps.evaluation.datasets.scan import read_scan
from pipeline_steps.evaluation.datasets.source import AbsentError, SourceSet
from pipeline_steps.evaluation.datasets.webdataset import read_webdataset
from pipeline_steps.evaluation.datasets.writer import SplitWriter
from pipeline_steps.evaluation.scores import EVALUATOR_VERSION

_LONGEST_HOLE = 1000
_READERS: dict[type[Any], Callable[[Any, Path], SourceSet]] = {
    CaptionsCsvSource: read_captions_csv,
    ClipBenchmarkSource: read_clip_benchmark,
    KarpathySource: read_karpathy,
    NcuSource: read_ncu,
    ParquetSource: read_parquet,
    ScanSource: read_scan,
    WebdatasetSource: read_webdataset,
}


def dataset_row(table: Path, name: str) -> DatasetRow:
    """The checked row of a set. Raises ConfigError for an unknown name, listing the known ones."""
    rows = read_yaml([table])
    if name not in rows:
        raise ConfigError([f"prepare_dataset.datasets: {name!r} is no row of {table}; allowed: {', '.join(rows)}"])
    return load_section(rows, name, DatasetRow)


def prepare(name: str, row: DatasetRow, root: Path, folder: Path, *, processes: int = 0) -> dict[str, Any]:
    """Write the set into `folder` and return what its dataset.json says.

    A set that cannot be had, or that is not what its row says, gets a folder with a hole. Raises FullDiskError.
    """
    facts: dict[str, Any] = {
        "name": name, "title": row.title, "tasks": row.tasks, "metric": row.metric, "folds": row.folds,
        "evaluator": EVALUATOR_VERSION, "source": None, "classes": [], "templates": [], "splits": {}, "missing": {},
        "hole": None,
    }  # fmt: skip
    with whole_folder(folder) as partial:
        try:
            facts |= _filled(row, root, partial, processes)
        except FullDiskError:
            raise
        except PipelineError as error:
            for member in partial.iterdir():
                shutil.rmtree(member) if member.is_dir() else member.unlink()
            facts["hole"] = without_control(" ".join(str(error).split()))[:_LONGEST_HOLE]
        write_json(partial / FACTS, facts)
    return facts


def _filled(row: DatasetRow, root: Path, folder: Path, processes: int) -> dict[str, Any]:
    source = _first_there(row, root)
    try:
        classes: list[str] = []
        templates: list[str] = []
        if "classification" in row.tasks:
            classes = chosen_names("classnames", row.classnames, source.classes)
            templates = chosen_names("templates", row.templates, source.templates)
            if len(classes) != row.classes:
                raise PipelineError(f"it has {len(classes)} class names, and {row.classes} are expected")
        splits, missing = _written(row, source, folder, processes)
    except PipelineError as error:
        raise PipelineError(f"{source.place} is there, but: {error}") from error
    return {"source": source.place, "classes": classes, "templates": templates, "splits": splits, "missing": missing}


def _first_there(row: DatasetRow, root: Path) -> SourceSet:
    reasons = []
    for source in row.sources:
        try:
            return _READERS[type(source)](source, root)
        except AbsentError as error:
            reasons.append(f"{source.kind}: {error}")
    remedy = f". Remedy: {row.remedy.replace('{root}', str(root))}" if row.remedy else ""
    raise PipelineError(f"no source is there: {'; '.join(reasons)}{remedy}")


def _written(row: DatasetRow, source: SourceSet, folder: Path, processes: int) -> tuple[dict[str, Any], dict[str, str]]:
    """The splits that are what the row says, and why the others are not there. A wrong test split is an error."""
    missing = {name: "the source has no such split" for name in row.n if name not in source.splits}
    missing |= source.missing
    splits = {}
    captions = "retrieval" in row.tasks
    writer = SplitWriter(folder, class_count=row.classes, captions=captions, processes=processes)
    try:
        for name, split in source.splits.items():
            try:
                facts = writer.write(name, split)
            except FullDiskError:
                raise
            except PipelineError as error:
                if name == "test":
                    raise
                missing[name] = " ".join(str(error).split())
                (folder / f"{name}.parquet").unlink(missing_ok=True)
                continue
            if row.n[name] in (None, facts["n"]):
                splits[name] = facts
                continue
            wrong = f"the split {name} ({split.split}) has {facts['n']:,} pictures, and {row.n[name]:,} are expected"
            if name == "test":
                raise PipelineError(wrong)
            missing[name] = wrong
            (folder / f"{name}.parquet").unlink()
    finally:
        writer.close()
    return splits, missing
