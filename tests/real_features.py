"""Features of real pictures, for tests and benchmarks of the linear probe."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from PIL import Image
from sklearn.decomposition import PCA

from tests.unit.paths import REPOSITORY

CIFAR10 = Path(os.environ.get("CIFAR10") or REPOSITORY.parent / "shared" / "data" / "cifar10")
BUNDLED = REPOSITORY / "resources" / "openclipart" / "openclipart.parquet"
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


def thumbnails(encoded: list[bytes], side: int) -> Floats:
    """(n, side * side * 3): the pixels of pictures shrunk to a square, in [0, 1]."""
    small = [Image.open(io.BytesIO(one)).convert("RGB").resize((side, side)) for one in encoded]
    return np.stack([np.asarray(one, dtype=np.float32).ravel() / 255 for one in small])


def bundled_pictures(width: int, count: int, *, side: int = 16) -> tuple[Floats, Integers]:
    """(count, width) principal components of bundled pictures, drawn at random, and their top categories (count,)."""
    table = pq.read_table(BUNDLED, columns=["image", "category", "split"]).to_pandas()
    table = table[table["split"] == "train"]
    table = table.assign(top=table["category"].str.split("/").str[0])
    common = table["top"].value_counts().index[:8]
    table = table[table["top"].isin(common)].sample(count, random_state=0)
    label = np.searchsorted(np.sort(common), table["top"].to_numpy()).astype(np.int64)
    pixels = thumbnails(table["image"].tolist(), side)
    return PCA(width, random_state=0).fit_transform(pixels).astype(np.float32), label


def cifar10_pixels(width: int, count: int) -> tuple[Floats, Integers]:
    """The same of CIFAR-10's first training pictures."""
    table = pq.read_table(CIFAR10 / "train.parquet", columns=["image", "label"]).slice(0, count)
    pixels = thumbnails(table["image"].to_pylist(), 32)
    label = table["label"].to_numpy().astype(np.int64)
    return PCA(width, random_state=0, svd_solver="randomized").fit_transform(pixels).astype(np.float32), label
