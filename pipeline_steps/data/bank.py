"""NPC's memory bank as a file: for every training pair the rows of two clean ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.parquet_file import read_parquet

IMAGE_NEIGHBOUR, TEXT_NEIGHBOUR = "image_neighbour", "text_neighbour"


def read_bank(path: Path, pairs: int) -> NDArray[np.int64]:
    """The rows of the clean pairs with the nearest image and the nearest caption, (pairs, 2).

    Raises PipelineError for another number of rows, for rows that are not there, and for a file that is no bank.
    """
    form = dict.fromkeys((IMAGE_NEIGHBOUR, TEXT_NEIGHBOUR), pa.int64())
    table = read_parquet(path, form, "Run build_memory_bank again.")
    if any(column.null_count for column in table.columns) or not len(table):
        raise PipelineError(f"{path} is no memory bank: it has pairs without neighbours. Run build_memory_bank again.")
    found = np.stack([column.to_numpy() for column in table.columns], axis=1)
    if len(found) != pairs or found.min() < 0 or found.max() >= pairs:
        raise PipelineError(
            f"{path} is a bank of {len(found)} pairs with neighbours in rows {found.min()} to {found.max()}, and "
            f"{pairs} pairs are trained on: run build_memory_bank for them again, with build_memory_bank.pairs as "
            "train_npc.training.pairs"
        )
    return found
