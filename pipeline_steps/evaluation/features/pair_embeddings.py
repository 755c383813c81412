"""Embeddings of training pairs: every different picture and every different caption once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline_steps.evaluation.features.extraction import Extraction
from pipeline_steps.evaluation.features.index import FeatureMatrix

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class PairEmbeddings(NamedTuple):
    """L2-normalised embeddings of the different pictures and captions (U, d) of P pairs, and which of them a pair has
    (P,). `logit_scale` is s = 1/tau of the checkpoint.
    """

    image_UD: Floats
    image_P: Integers
    text_UD: Floats
    text_P: Integers
    logit_scale: float


def embed_pairs(extraction: Extraction, pairs: Path, rows: pa.Table) -> PairEmbeddings:
    """Embed rows of the manifest `pairs` with the one checkpoint of `extraction`, or read what its cache has.

    `rows` has PICTURE_COLUMNS and caption. Pictures are different where their bytes are.
    """
    (checkpoint,) = extraction.checkpoints
    first_U, image_P = _different(rows["sha256"])
    extraction.add_manifest_pictures("train", pairs, rows.take(first_U))
    first_V, text_P = _different(rows["caption"])
    extraction.add_texts("train/text", rows["caption"].take(first_V).to_pylist())
    image_UD, text_UD = (
        _normalised(extraction, checkpoint.entries[name].key) for name in ("train/image", "train/text")
    )
    return PairEmbeddings(image_UD, image_P, text_UD, text_P, checkpoint.encoder.logit_scale)


def _different(column: pa.ChunkedArray) -> tuple[Integers, Integers]:
    """The first row of each different value, in the order of these rows, and for each row the place of its value."""
    place_P = column.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    _, first = np.unique(place_P, return_index=True)
    return first, place_P


def _normalised(extraction: Extraction, key: str) -> Floats:
    matrix: Any = FeatureMatrix(extraction.cache.path(key), key)
    rows: Floats = matrix.rows(0, len(matrix))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows
