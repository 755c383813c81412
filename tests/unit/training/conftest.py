"""A small real manifest, and one thread."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline_steps.core.files import sha256_of
from pipeline_steps.data.manifest import SCHEMA, write_manifest


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """24 pictures with captions, 20 of them to train on, of which 5 are noisy."""
    generator = np.random.default_rng(0)
    rows = []
    for row in range(24):
        picture = tmp_path / f"{row}.png"
        Image.fromarray(generator.integers(0, 255, (36, 36, 3), dtype=np.uint8)).save(picture)
        rows.append(
            {"id": f"{row:02d}", "image_path": picture.name, "sha256": sha256_of(picture), "width": 36, "height": 36,
             "phash": 0, "caption": f"number {row}", "split": "train" if row < 20 else "validation",
             "is_noisy": row < 5, "clean_caption": f"number {row}"}
        )  # fmt: skip
    write_manifest(tmp_path / "pairs.parquet", pa.Table.from_pylist(rows, schema=SCHEMA), tmp_path)
    return tmp_path / "pairs.parquet"
