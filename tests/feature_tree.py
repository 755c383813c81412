"""Index and cache of features from arrays, for tests that start behind extract_features."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline_steps.evaluation.features.cache import FeatureCache, key_of
from pipeline_steps.evaluation.features.index import Index, SetFacts, relative_cache


def write_index(
    path: Path, tensors: Mapping[str, npt.NDArray[np.generic]], datasets: Mapping[str, SetFacts] | None = None
) -> None:
    """features.json at `path`; the matrices go into a cache named after it."""
    cache = FeatureCache(path.with_suffix(".cache"))
    entries = {}
    for name, rows in tensors.items():
        typed = np.ascontiguousarray(rows, dtype=np.int64 if np.issubdtype(rows.dtype, np.integer) else np.float32)
        content = hashlib.sha256(typed.tobytes()).hexdigest()
        entries[name] = cache.store(key_of(name=name, shape=str(typed.shape), content=content), typed)
    Index(relative_cache(cache.folder, path), "0" * 64, dict(datasets or {}), entries).write(path)
