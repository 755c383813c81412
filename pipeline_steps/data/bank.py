"""NPC's memory bank as a file: for every training pair the rows of two clean ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline_steps.core.errors import PipelineError

IMAGE_NEIGHBOUR, TEXT_NEIGHBOUR = "image_neighbour", "text_neighbour"


def read_bank(path: Path, pairs: int) -> NDArray[np.int64]:
    """The rows of the clean pairs with the nearest image and the nearest caption, (pairs, 2).

    Raises PipelineError for another number of rows, for rows that are not there, and for a file that is no bank.
    """
    try:
        table = pq.read_table(path, columns=[IMAGE_NEIGHBOUR, TEXT_NEIGHBOUR])
        found = np.stack([column.to_numpy() for column in table.columns], axis=1).astype(np.int64)
    except (OSError, pa.ArrowException, ValueError, IndexError) as error:
        raise PipelineError(
            f"{path} cannot be read as a memory bank ({' '.join(str(error).split())}); run build_memory_bank again"
        ) from error
    if len(found) != pairs or found.min() < 0 or found.max() >= pairs:
        raise PipelineError(
            f"{path} is a bank of {len(found)} pairs with neighbours in rows {found.min()} to {found.max()}, and "
            f"{pairs} pairs are trained on: run build_memory_bank for them again, with build_memory_bank.pairs as "
            "train_npc.training.pairs"
        )
    return found
