"""Small prepared sets and checkpoints, made by the project's own code from real files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline_steps.core.schema import ExtractFeaturesConfig
from pipeline_steps.evaluation.datasets.prepare import prepare
from pipeline_steps.evaluation.datasets.prepared import PreparedSet, read_prepared
from pipeline_steps.evaluation.features.cache import FeatureCache
from pipeline_steps.evaluation.features.extraction import Checkpoint, Extraction, index_of
from pipeline_steps.evaluation.features.index import Features, relative_cache
from pipeline_steps.models.clip import create_clip, save_clip
from tests.unit.data.made_data import picture_bytes, write_picture
from tests.unit.evaluation.datasets import made_sets

CPU = torch.device("cpu")
SETTINGS = ExtractFeaturesConfig(batch_size=4, workers=0, taps=("projected",), cache=None, checkpoints_per_job=8)
VISION = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}


def classification_set(folder: Path, name: str, *, test: int, train: int, first: int = 0) -> PreparedSet:
    """A set of two classes in a parquet file, its pictures numbered from `first` on (every hundredth is the same)."""
    source = folder / f"{name}_source"
    source.mkdir(parents=True)
    for split, count, start in (("test", test, first), ("train", train, first + test)):
        pictures = [picture_bytes((start + number) % 100, form="PNG") for number in range(count)]
        labels = [number % 2 for number in range(count)]
        words = ["dog" if label else "cat" for label in labels]
        pq.write_table(pa.table({"image": pictures, "label": labels, "name": words}), source / f"{split}.parquet")
    row = made_sets.row(
        n={"test": test, "train": train}, templates=["a {c}.", "{c}"],
        sources=[{
            "kind": "parquet", "path": "{root}/{split}.parquet", "splits": {"test": "test", "train": "train"},
            "label_column": "label", "class_name_column": "name",
        }],
    )  # fmt: skip
    prepare(name, row, source, folder / name, processes=1)
    return read_prepared(folder / name)


def retrieval_set(folder: Path, name: str, *, pictures: int) -> PreparedSet:
    """A set of picture files; picture n has n % 3 + 1 captions."""
    source = folder / f"{name}_source"
    source.mkdir(parents=True)
    with (source / "captions.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "caption"])
        for number in range(pictures):
            write_picture(source / f"{number}.png", number)
            writer.writerows([f"{number}.png", f"a dog {number} {text}"] for text in range(number % 3 + 1))
    row = made_sets.row(
        tasks=["retrieval"], n={"test": pictures},
        sources=[{"kind": "captions_csv", "path": "{root}/captions.csv", "splits": {"test": "test"}}],
    )  # fmt: skip
    prepare(name, row, source, folder / name, processes=1)
    return read_prepared(folder / name)


def checkpoints(folder: Path, count: int, *, mean: float | None = None) -> list[Path]:
    """Small vision transformers of different weights; with `mean`, of another preprocessing."""
    architecture = folder / "tiny.json"
    folder.mkdir(parents=True, exist_ok=True)
    architecture.write_text(json.dumps({"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}))
    made = []
    for number in range(count):
        torch.manual_seed(number)
        bundle = create_clip(str(architecture), None if mean is None else {"mean": (mean,) * 3})
        made.append(folder / f"checkpoint{number}")
        save_clip(made[-1], bundle)
    return made


def extracted(
    folders: list[Path], sets: list[PreparedSet], cache: Path, settings: ExtractFeaturesConfig = SETTINGS
) -> tuple[list[Features], dict[str, int]]:
    """The features of each checkpoint as one job makes them, and the job's counts."""
    extraction = Extraction([Checkpoint(one, settings, CPU) for one in folders], FeatureCache(cache), settings, CPU)
    for found in sets:
        extraction.add_set(found)
    features = []
    for number, checkpoint in enumerate(extraction.checkpoints):
        path = cache.parent / f"{cache.name}_{number}.json"
        index_of(checkpoint, sets, relative_cache(cache, path)).write(path)
        features.append(Features(path))
    return features, extraction.counts
