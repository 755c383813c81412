"""The features of one checkpoint, as `extract_features` writes them: safetensors, read a tensor at a time.

Keys, for a data set D: `D/test/image`, `D/test/label`, `D/train/image`, `D/train/label`, `D/class_text`,
`D/test/caption`, `D/test/caption_image`; and `validation/image`, `validation/text` for the held-out training pairs.
Metadata: `logit_scale`, `D/classes` (a JSON list of names), `D/label_hash`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from pipeline_steps.core.errors import PipelineError

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
_UNIT_NORM_TOLERANCE = 1e-2


class FeatureFile:
    """A whole features file. Raises PipelineError when the file is torn or is not safetensors."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, framework="numpy") as opened:
                self._keys = frozenset(opened.keys())
                self._metadata: dict[str, str] = dict(opened.metadata() or {})
        except (SafetensorError, OSError) as error:
            raise PipelineError(
                f"{path} is not a whole features file ({error}). Run extract_features for this checkpoint again."
            ) from error

    def datasets_with(self, part: str) -> tuple[str, ...]:
        """The data sets, sorted, that have a tensor `part` such as `class_text`. Raises PipelineError if none has."""
        found = tuple(sorted(key.removesuffix(f"/{part}") for key in self._keys if key.endswith(f"/{part}")))
        if not found:
            raise PipelineError(
                f"{self.path} has no data set with {part}. Add one to extract_features.datasets; "
                "config/README.md says what each data set holds."
            )
        return found

    def matrix(self, key: str) -> Floats:
        """An embedding matrix (n, d), float32, l2-normalised. Raises PipelineError when it is not that."""
        matrix = np.asarray(self._tensor(key), dtype=np.float32)
        if matrix.ndim != 2 or not len(matrix):
            raise self._broken(key, f"has shape {matrix.shape}, and rows of embeddings are wanted")
        lengths = np.linalg.norm(matrix, axis=1)
        if not np.all(np.abs(lengths - 1) < _UNIT_NORM_TOLERANCE):
            worst = lengths[int(np.argmax(np.abs(np.nan_to_num(lengths, nan=np.inf) - 1)))]
            raise self._broken(key, f"has a row of length {worst:.3g}, and l2-normalised rows are wanted")
        return matrix

    def indices(self, key: str, *, rows: int, below: int, lowest: int = 0) -> Integers:
        """Indices (rows,) in [lowest, below). Raises PipelineError for another shape or a value outside."""
        values = np.asarray(self._tensor(key), dtype=np.int64)
        if values.shape != (rows,):
            raise self._broken(key, f"has shape {values.shape}, and ({rows},) is wanted")
        if values.size and (values.min() < lowest or values.max() >= below):
            raise self._broken(key, f"holds {values.min()} to {values.max()}, and {lowest} to {below - 1} is allowed")
        return values

    def labelled(self, dataset: str, split: str) -> tuple[Floats, Integers, Integers]:
        """Pictures of `split` that belong to a class: image (n, d), class index (n,), row in the full matrix (n,)."""
        image = self.matrix(f"{dataset}/{split}/image")
        classes = len(self.class_names(dataset))
        label = self.indices(f"{dataset}/{split}/label", rows=len(image), below=classes, lowest=-1)
        row = np.flatnonzero(label >= 0).astype(np.int64)
        if not len(row):
            raise self._broken(f"{dataset}/{split}/label", "has no picture that belongs to a class")
        return image[row], label[row], row

    def class_names(self, dataset: str) -> list[str]:
        """The class names of a data set, in label order."""
        try:
            names: list[str] = json.loads(self._metadata[f"{dataset}/classes"])
        except (KeyError, json.JSONDecodeError) as error:
            raise self._broken(f"{dataset}/classes", "is not in the metadata as a JSON list") from error
        return names

    def label_hash(self, dataset: str) -> str:
        """The hash that says on which labels a score was made; empty for a data set without labels."""
        return self._metadata.get(f"{dataset}/label_hash", "")

    def _tensor(self, key: str) -> npt.NDArray[Any]:
        if key not in self._keys:
            raise self._broken(key, "is missing")
        with safe_open(self.path, framework="numpy") as opened:
            tensor: npt.NDArray[Any] = opened.get_tensor(key)
        return tensor

    def _broken(self, key: str, fact: str) -> PipelineError:
        return PipelineError(f"{self.path}: {key} {fact}. Run extract_features for this checkpoint again.")
