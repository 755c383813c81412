"""Labelled features read block after block, so that a million rows take no more memory than is allowed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline_steps.core.errors import PipelineError

Integers = npt.NDArray[np.int64]
_BLOCK_ELEMENTS = 2**22
_CHUNK_ELEMENTS, _GPU_CHUNK_ELEMENTS = 2**19, 2**26


class Matrix(Protocol):
    """Rows of features (n, d), on disk or in memory; `FeatureMatrix` is one."""

    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows start to stop - 1, float32."""


class ArrayMatrix:
    """An array (n, d) of any float type as a Matrix."""

    def __init__(self, array: npt.NDArray[np.floating], name: str = "an array") -> None:
        self._array, self.name = array, name

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""
        return self._array.shape

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows start to stop - 1."""
        return np.asarray(self._array[start:stop], dtype=np.float32)


class Part(NamedTuple):
    """A matrix (n, d) with the class of each row (n,); rows of class -1 are left out."""

    matrix: Matrix
    label: Integers


class LabelledRows:
    """The rows of one or several parts, with their classes, float32 on `device`.

    `kept_bytes`: features of at most this size are kept after they have been read once, larger ones are read again in
    every pass; None: 1 GiB, or half of a GPU's free memory. `normalize` divides each row by its length.
    """

    def __init__(
        self, parts: Sequence[Part], *, normalize: bool, device: torch.device, kept_bytes: int | None = None
    ) -> None:
        for part in parts:
            if len(part.label) != part.matrix.shape[0]:
                raise PipelineError(
                    f"{part.matrix.name} has {part.matrix.shape[0]} rows and {len(part.label)} labels belong to it. "
                    "Run extract_features for this checkpoint again."
                )
        self._parts, self._normalize, self.device = tuple(parts), normalize, device
        self.width = parts[0].matrix.shape[1]
        self.label: Integers = np.concatenate([part.label[part.label >= 0] for part in parts])
        limit = _kept_bytes(device) if kept_bytes is None else kept_bytes
        self._keeps = 4 * len(self.label) * self.width <= limit
        self._kept: list[tuple[Tensor, Tensor]] | None = None

    def __len__(self) -> int:
        return len(self.label)

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Features (m, d), float32, and their classes (m,), int64, all rows in order.

        Raises PipelineError for a row that is not finite, and for one of length zero that is to be normalised.
        """
        if self._kept is None and self._keeps:
            self._kept = list(self._read())
        yield from self._read() if self._kept is None else self._kept

    def chunks(self, classes: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The blocks cut so small that a chunk's rows and its `classes` logits each stay in a processor's cache."""
        size = self.chunk_size(classes)
        for feature_MD, label_M in self.blocks():
            yield from zip(torch.split(feature_MD, size), torch.split(label_M, size), strict=True)

    def chunk_size(self, classes: int) -> int:
        """Rows of a chunk."""
        elements = _CHUNK_ELEMENTS if self.device.type == "cpu" else _GPU_CHUNK_ELEMENTS
        return max(1, elements // (self.width + classes))

    def sample(self, count: int) -> Tensor:
        """At most `count` rows (m, d), float32, at random but always the same ones, in order."""
        random = np.random.default_rng(0)
        chosen = np.sort(random.choice(len(self), size=min(count, len(self)), replace=False))
        found = torch.empty(len(chosen), self.width, device=self.device)  # whole: pieces would break up the heap
        start = 0
        for feature_MD, _ in self.blocks():
            first, last = np.searchsorted(chosen, [start, start + len(feature_MD)])
            found[first:last] = feature_MD[torch.from_numpy(chosen[first:last] - start).to(self.device)]
            start += len(feature_MD)
        return found

    def _read(self) -> Iterator[tuple[Tensor, Tensor]]:
        step = max(1, _BLOCK_ELEMENTS // self.width)
        for matrix, label in self._parts:
            for start in range(0, len(label), step):
                mine = label[start : start + step]
                used = mine >= 0
                if not used.any():
                    continue
                rows = matrix.rows(start, start + step)
                feature_MD = torch.from_numpy(rows if used.all() else rows[used]).to(self.device)
                yield self._checked(feature_MD, matrix.name), torch.from_numpy(mine[used]).to(self.device)

    def _checked(self, feature_MD: Tensor, name: str) -> Tensor:
        length_M = feature_MD.norm(dim=1)
        if not bool(torch.isfinite(length_M).all()):
            raise PipelineError(f"{name} has a row that is not finite. Run extract_features for this checkpoint again.")
        if not self._normalize:
            return feature_MD
        if not bool((length_M > 0).all()):
            raise PipelineError(
                f"{name} has a row of length zero, which cannot be normalised. Set eval_probe.normalize to false, or "
                "run extract_features for this checkpoint again."
            )
        return F.normalize(feature_MD, dim=1)


def _kept_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 2**30
