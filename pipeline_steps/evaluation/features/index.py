"""The features of one checkpoint, as `extract_features` writes them: an index of files in the cache.

Keys, for a data set D and its splits S (test, train, validation): `D/S/image`, the projected embeddings; where that tap
is asked for `D/S/penultimate`, what enters the image tower's last projection; `D/S/label`; `D/class_text`;
`D/test/caption` and `D/test/caption_image`; and `validation/image`, `validation/text` for the held-out training pairs.
Embeddings are kept as the towers give them and normalised when they are read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import field
from safetensors import safe_open

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import read_json, write_json
from pipeline_steps.core.schema.values import Section
from pipeline_steps.evaluation.features.cache import TENSOR, Entry, FeatureCache, checksum_of
from pipeline_steps.evaluation.scores import Score

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
_ROWS_AT_ONCE = 2**16


class SplitFacts(Section, frozen=True):
    """`split`: its name at its source; `n` pictures; `label_hash`: equal for equal labels."""

    split: str
    n: int
    label_hash: str


class SetFacts(Section, frozen=True):
    """What prepare_dataset said of a set; `missing`: a line for each split but test that could not be had."""

    title: str
    tasks: tuple[str, ...]
    metric: str
    source: str | None
    evaluator: str
    classes: tuple[str, ...] = ()
    folds: int | None = None
    hole: str | None = None
    missing: dict[str, str] = field(default_factory=dict)
    splits: dict[str, SplitFacts] = field(default_factory=dict)


class Index(Section, frozen=True):
    """features.json. `cache` is the cache's folder, from the index's own; `checkpoint` the sha256 of the checkpoint."""

    cache: str
    checkpoint: str
    datasets: dict[str, SetFacts]
    tensors: dict[str, Entry]

    def write(self, path: Path) -> None:
        """As JSON, whole or not at all."""
        write_json(path, msgspec.to_builtins(self))


def relative_cache(cache: Path, index: Path) -> str:
    """The cache's folder from the folder of `index`, so that results may move together with their cache."""
    return os.path.relpath(cache.resolve(), index.parent.resolve())


class FeatureMatrix:
    """Embeddings (n, d) on disk, as the tower gives them; rows are read when they are asked for."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self.name = path, name
        with safe_open(path, framework="numpy") as opened:
            self.shape: tuple[int, ...] = tuple(opened.get_slice(TENSOR).get_shape())

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, start: int, stop: int) -> Floats:
        """Rows start to stop - 1, float32."""
        with safe_open(self._path, framework="numpy") as opened:
            return np.asarray(opened.get_slice(TENSOR)[start : min(stop, len(self))], dtype=np.float32)


class Features:
    """The features of one checkpoint, read a matrix at a time.

    Raises PipelineError when the index or a file of the cache that is asked for is missing, torn or not the one that
    the index means.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index = read_json(path, Index, "Delete it and run extract_features for this checkpoint again.")
        self._cache = FeatureCache(path.parent / self._index.cache)
        self._whole: set[str] = set()

    def datasets_with(self, part: str) -> tuple[str, ...]:
        """The data sets, sorted, that have a tensor `part` such as `class_text`."""
        keys = self._index.tensors
        return tuple(sorted(key.removesuffix(f"/{part}") for key in keys if key.endswith(f"/{part}")))

    def holes(self, task: str, split: str = "test") -> Mapping[str, str]:
        """The sets of a task, "classification" or "retrieval", that could not be had, or whose `split` could not: the
        line that says why.
        """
        lines = {name: facts.hole or facts.missing.get(split) for name, facts in self._of(task).items()}
        return {name: line for name, line in lines.items() if line}

    def has(self, key: str) -> bool:
        """Whether there is a tensor of this name."""
        return key in self._index.tensors

    def matrix(self, key: str) -> Floats:
        """An embedding matrix (n, d), float32, l2-normalised. Raises PipelineError when it is not that."""
        raw = self.raw(key)
        parts = [self._normalised(raw, start) for start in range(0, len(raw), _ROWS_AT_ONCE)]
        return np.concatenate(parts)

    def raw(self, key: str) -> FeatureMatrix:
        """An embedding matrix (n, d) as the tower gave it, on disk."""
        found = FeatureMatrix(self._file(key), key)
        if len(found.shape) != 2 or not found.shape[0]:
            raise self._broken(key, f"has shape {found.shape}, and rows of embeddings are wanted")
        return found

    def indices(self, key: str, *, rows: int, below: int, lowest: int = 0) -> Integers:
        """Indices (rows,) in [lowest, below). Raises PipelineError for another shape or a value outside."""
        with safe_open(self._file(key), framework="numpy") as opened:
            values = np.asarray(opened.get_tensor(TENSOR), dtype=np.int64)
        if values.shape != (rows,):
            raise self._broken(key, f"has shape {values.shape}, and ({rows},) is wanted")
        if values.size and (values.min() < lowest or values.max() >= below):
            raise self._broken(key, f"holds {values.min()} to {values.max()}, and {lowest} to {below - 1} is allowed")
        return values

    def labels(self, dataset: str, split: str) -> Integers:
        """(n,) class indices of a split's pictures, -1 where a picture is of no class."""
        rows, classes = self._split(dataset, split).n, len(self.class_names(dataset))
        return self.indices(f"{dataset}/{split}/label", rows=rows, below=classes, lowest=-1)

    def labelled(self, dataset: str, split: str) -> tuple[Floats, Integers, Integers]:
        """Pictures of `split` that belong to a class: image (n, d), class index (n,), row in the full matrix (n,)."""
        image, label = self.matrix(f"{dataset}/{split}/image"), self.labels(dataset, split)
        if len(image) != len(label):
            raise self._broken(f"{dataset}/{split}/image", f"has {len(image)} rows for {len(label)} pictures")
        row = np.flatnonzero(label >= 0).astype(np.int64)
        if not len(row):
            raise self._broken(f"{dataset}/{split}/label", "has no picture that belongs to a class")
        return image[row], label[row], row

    def class_names(self, dataset: str) -> list[str]:
        """The class names of a data set, in label order."""
        return list(self._set(dataset).classes)

    def folds(self, dataset: str) -> int | None:
        """Into how many equal parts retrieval also divides the test split."""
        return self._set(dataset).folds

    def facts(self, dataset: str, split: str) -> dict[str, Score]:
        """On what a score is made: `split` as its source calls it, `n_split` pictures, `label_hash`, `metric`,
        `source`, `evaluator`, `title`.
        """
        found, of_split = self._set(dataset), self._split(dataset, split)
        return {
            "split": of_split.split,
            "n_split": of_split.n,
            "label_hash": of_split.label_hash,
            "metric": found.metric,
            "source": found.source or "",
            "evaluator": found.evaluator,
            "title": found.title,
        }

    def _of(self, task: str) -> dict[str, SetFacts]:
        return {name: facts for name, facts in sorted(self._index.datasets.items()) if task in facts.tasks}

    def _set(self, dataset: str) -> SetFacts:
        if dataset not in self._index.datasets:
            raise self._broken(dataset, "is no data set of it")
        return self._index.datasets[dataset]

    def _split(self, dataset: str, split: str) -> SplitFacts:
        splits = self._set(dataset).splits
        if split not in splits:
            raise self._broken(f"{dataset}/{split}", "is no split of it")
        return splits[split]

    def _normalised(self, raw: FeatureMatrix, start: int) -> Floats:
        part = raw.rows(start, start + _ROWS_AT_ONCE).astype(np.float64)
        lengths = np.sqrt(np.einsum("nd,nd->n", part, part))
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            worst = int(np.flatnonzero(~np.isfinite(lengths) | (lengths <= 0))[0])
            raise self._broken(raw.name, f"has a row of length {lengths[worst]:.3g} (row {start + worst})")
        normalised: Floats = (part / lengths[:, None]).astype(np.float32)
        return normalised

    def _file(self, key: str) -> Path:
        """The file of a tensor, after every byte of it has been read once."""
        entry = self._index.tensors.get(key)
        if entry is None:
            raise self._broken(key, "is missing")
        path = self._cache.path(entry.key)
        if entry.key not in self._whole:
            if checksum_of(path) != entry.sha256:
                state = "is torn or is not the one that was extracted" if path.is_file() else "is gone"
                raise self._broken(key, f"is in {path}, which {state}")
            self._whole.add(entry.key)
        return path

    def _broken(self, key: str, fact: str) -> PipelineError:
        return PipelineError(
            f"{self.path}: {key} {fact}. Delete this index and run extract_features for this checkpoint again; it "
            "makes what is missing."
        )
