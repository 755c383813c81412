"""Every embedding that evaluations need, for several checkpoints at once: each picture is decoded once for all of them.

What the cache has is not computed again; a matrix is in the cache as soon as its last row is, so a job that is killed
loses the split it was at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import sha256_of
from pipeline_steps.core.schema import ExtractFeaturesConfig
from pipeline_steps.core.schema.evaluation import Tap
from pipeline_steps.data.manifest import image_root, validation_rows
from pipeline_steps.data.pictures import PictureReader
from pipeline_steps.data.preprocessing import Preprocessing
from pipeline_steps.evaluation.datasets.prepared import PreparedSet, PreparedSplit
from pipeline_steps.evaluation.features.cache import Entry, FeatureCache, GrowingFile, key_of
from pipeline_steps.evaluation.features.encoder import Encoder, Rows
from pipeline_steps.evaluation.features.index import Index, SetFacts, SplitFacts
from pipeline_steps.evaluation.scores import EVALUATOR_VERSION

PICTURE_COLUMNS = ("image_path", "image_offset", "image_bytes", "sha256")
KEY_OF_TAP: dict[Tap, str] = {"projected": "image", "penultimate": "penultimate"}


@dataclass(frozen=True)
class Pictures:
    """`count` pictures, `at(row)` as RGB; `content` is a hash of all of them in order."""

    title: str
    count: int
    at: Callable[[int], Image.Image]
    content: str


class Checkpoint:
    """A checkpoint by the hash of its files; the model is loaded when something must be computed."""

    def __init__(self, folder: Path, settings: ExtractFeaturesConfig, device: torch.device) -> None:
        self.sha256 = sha256_of(folder)
        self.entries: dict[str, Entry] = {}
        self._make: Callable[[], Encoder] = lambda: Encoder(
            folder, device, batch_size=settings.batch_size, taps=settings.taps
        )

    @cached_property
    def encoder(self) -> Encoder:
        """The loaded model."""
        return self._make()

    def key(self, what: str, content: str) -> str:
        """The cache's name for what this checkpoint makes of a content."""
        return key_of(what=what, content=content, checkpoint=self.sha256, evaluator=EVALUATOR_VERSION)


@dataclass
class Extraction:
    """Fills the cache for all checkpoints; `counts` says what was computed and what was there, over all of them."""

    checkpoints: Sequence[Checkpoint]
    cache: FeatureCache
    settings: ExtractFeaturesConfig
    device: torch.device
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("pictures_read", "pictures_encoded", "pictures_from_cache", "texts_encoded", "texts_from_cache"), 0
        )
    )

    def add_set(self, found: PreparedSet) -> None:
        """A data set's pictures, labels, classes and captions; nothing for a set that could not be had."""
        classification = "classification" in found.tasks
        for name, split in found.splits.items():
            if name != "test" and not classification:
                continue
            taps: list[Tap] = list(self.settings.taps)
            if name == "test" and "projected" not in taps:
                taps.append("projected")
            if classification:
                self._add_indices(f"{found.name}/{name}/label", split.labels)
            pictures = Pictures(f"{found.name} {name}", split.n, split.picture, split.content_hash)
            self.add_pictures(f"{found.name}/{name}", pictures, taps)
        if classification and found.splits:
            self._add_texts(f"{found.name}/class_text", found.prompts(), Encoder.classes)
        if "retrieval" in found.tasks and found.splits:
            self._add_captions(found.name, found.splits["test"])

    def add_pairs(self, pairs: Path) -> None:
        """Pictures and captions of the manifest's held-out split, matched row by row."""
        table = validation_rows(pairs, PICTURE_COLUMNS + ("caption",))
        self.add_manifest_pictures("validation", pairs, table)
        self.add_texts("validation/text", table["caption"].to_pylist())

    def add_manifest_pictures(self, prefix: str, pairs: Path, table: pa.Table) -> None:
        """`<prefix>/image` of rows with PICTURE_COLUMNS of the manifest `pairs`."""
        at = ManifestPictures(PictureReader(image_root(pairs)), [table[name] for name in PICTURE_COLUMNS])
        content = _content(table["sha256"].to_pylist())
        self.add_pictures(prefix, Pictures(f"{prefix} pairs", table.num_rows, at, content), ["projected"])

    def add_texts(self, name: str, texts: Sequence[str]) -> None:
        """The embeddings of texts, as `name`."""
        self._add_texts(name, texts, Encoder.texts)

    def add_pictures(self, prefix: str, pictures: Pictures, taps: Sequence[Tap]) -> None:
        """`<prefix>/image`, `<prefix>/penultimate` of every checkpoint, all from one reading of the pictures."""
        with ExitStack() as stack:
            wanted: list[tuple[Checkpoint, dict[Tap, GrowingFile]]] = []
            for checkpoint in self.checkpoints:
                files: dict[Tap, GrowingFile] = {}
                for tap in taps:
                    key = checkpoint.key(tap, pictures.content)
                    if found := self.cache.find(key):
                        checkpoint.entries[f"{prefix}/{KEY_OF_TAP[tap]}"] = found
                    else:
                        files[tap] = stack.enter_context(self.cache.growing(key, pictures.count))
                self.counts["pictures_encoded" if files else "pictures_from_cache"] += pictures.count
                if files:
                    wanted.append((checkpoint, files))
            if wanted:
                self._encode(pictures, wanted)
        for checkpoint, files in wanted:
            checkpoint.entries |= {f"{prefix}/{KEY_OF_TAP[tap]}": growing.done() for tap, growing in files.items()}

    def _encode(self, pictures: Pictures, wanted: Sequence[tuple[Checkpoint, dict[Tap, GrowingFile]]]) -> None:
        transforms = {one.encoder.preprocess_cfg: one.encoder.preprocessing for one, _ in wanted}
        place = {preprocess_cfg: number for number, preprocess_cfg in enumerate(transforms)}
        models = f"{len(wanted)} checkpoints" if len(wanted) > 1 else "1 checkpoint"
        for batch in self._batches(pictures, list(transforms.values()), f"{pictures.title}, {models}"):
            for checkpoint, files in wanted:
                pixels = batch[place[checkpoint.encoder.preprocess_cfg]]
                for tap, rows in checkpoint.encoder.images(pixels, list(files)).items():
                    files[tap].append(rows)
        self.counts["pictures_read"] += pictures.count

    def _batches(self, pictures: Pictures, transforms: Sequence[Preprocessing], title: str) -> Iterator[list[Tensor]]:
        """Batches in order, each once per transform (N, C, H, W), on the device."""
        loader: DataLoader[Any] = DataLoader(
            PreprocessedPictures(pictures, transforms), self.settings.batch_size, num_workers=self.settings.workers,
            pin_memory=self.device.type == "cuda",
        )  # fmt: skip
        for batch in tqdm(loader, desc=title, unit="batch", mininterval=5.0):
            on_device = [pixels.to(self.device, non_blocking=True) for pixels in batch]
            yield [one.of_batch(pixels) for one, pixels in zip(transforms, on_device, strict=True)]

    def _add_captions(self, name: str, split: PreparedSplit) -> None:
        captions = split.captions
        texts = [text for of_picture in captions for text in of_picture]
        if not texts:
            raise PipelineError(
                f"{split.folder}: no picture of {split.name}.parquet has a caption, and retrieval needs some. Correct "
                f"the row {name} of prepare_dataset.table and run prepare_dataset again."
            )
        self._add_indices(f"{name}/test/caption_image", np.repeat(np.arange(split.n), [len(c) for c in captions]))
        self._add_texts(f"{name}/test/caption", texts, Encoder.texts)

    def _add_texts(self, name: str, texts: Sequence[Any], encode: Callable[[Encoder, Any], Rows]) -> None:
        count = sum(1 if isinstance(text, str) else len(text) for text in texts)
        for checkpoint in tqdm(self.checkpoints, desc=f"{name}, {count} texts", unit="checkpoint", mininterval=5.0):
            key = checkpoint.key(encode.__name__, _content(texts))
            found = self.cache.find(key)
            self.counts["texts_from_cache" if found else "texts_encoded"] += count
            checkpoint.entries[name] = found or self.cache.store(key, encode(checkpoint.encoder, texts))

    def _add_indices(self, name: str, values: np.ndarray[Any, Any]) -> None:
        typed = np.ascontiguousarray(values, dtype=np.int64)
        entry = self.cache.store(key_of(what="indices", content=hashlib.sha256(typed.tobytes()).hexdigest()), typed)
        for checkpoint in self.checkpoints:
            checkpoint.entries[name] = entry


class PreprocessedPictures(Dataset[tuple[Tensor, ...]]):
    """Row -> the picture, decoded once, through each transform."""

    def __init__(self, pictures: Pictures, transforms: Sequence[Preprocessing]) -> None:
        self._pictures, self._transforms = pictures, transforms

    def __len__(self) -> int:
        return self._pictures.count

    def __getitem__(self, row: int) -> tuple[Tensor, ...]:
        picture = self._pictures.at(row)
        return tuple(transform.of_picture(picture) for transform in self._transforms)


@dataclass(frozen=True)
class ManifestPictures:
    """The pictures at a manifest's columns of places; may be sent to another process."""

    reader: PictureReader
    places: Sequence[Any]

    def __call__(self, row: int) -> Image.Image:
        """The picture of a row, as RGB."""
        return self.reader.read(*(column[row].as_py() for column in self.places))


def index_of(checkpoint: Checkpoint, prepared: Sequence[PreparedSet], cache: str) -> Index:
    """The index of a checkpoint whose features are all there; `cache` is the way to them from the index."""
    return Index(cache, checkpoint.sha256, {found.name: _facts(found) for found in prepared}, checkpoint.entries)


def _facts(found: PreparedSet) -> SetFacts:
    splits = {name: SplitFacts(split.split, split.n, split.label_hash) for name, split in found.splits.items()}
    return SetFacts(
        title=found.title, tasks=found.tasks, metric=found.metric, source=found.source, evaluator=EVALUATOR_VERSION,
        classes=found.classes, folds=found.folds, hole=found.hole, missing=dict(found.missing), splits=splits,
    )  # fmt: skip


def _content(parts: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(list(parts), ensure_ascii=False).encode()).hexdigest()
