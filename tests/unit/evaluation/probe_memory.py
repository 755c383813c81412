"""Fits a probe on generated features that are not kept, and prints MiB: the features, all logits, what the fit added.

python -m tests.unit.evaluation.probe_memory FOLDER [rows] [width] [classes] [iterations]

`rows` may be several numbers with commas between them; each is fitted on its own and has a line of its own.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from pipeline_steps.evaluation.features.cache import TENSOR, FeatureCache
from pipeline_steps.evaluation.features.index import FeatureMatrix
from pipeline_steps.evaluation.labelled_rows import ArrayMatrix, LabelledRows, Part
from pipeline_steps.evaluation.softmax_regression import SoftmaxRegression
from tests.benchmarks.measure import Samples, run_once


def main(folder: Path, rows: int = 300_000, width: int = 256, classes: int = 100, iterations: int = 2) -> None:
    path, label = _write(folder, rows, width, classes)
    matrix = FeatureMatrix(path, "made")
    device = torch.device("cpu")

    def fit() -> dict[str, float]:
        parts = [Part(matrix, label)]
        problem = SoftmaxRegression(LabelledRows(parts, normalize=True, device=device, kept_bytes=2**26))
        solution = problem.fit(1.0, iterations)
        return {"objective": solution.objective, "passes": solution.passes}

    small = LabelledRows([Part(ArrayMatrix(np.eye(8)), np.arange(8) % 2)], normalize=True, device=device)
    SoftmaxRegression(small).fit(1.0, 2)  # what torch and its libraries take once
    samples, started = Samples(), time.perf_counter()
    run_once(fit, samples, device)
    print(4 * rows * width / 2**20, 4 * rows * classes / 2**20, samples.peak_mib)
    print(f"{time.perf_counter() - started:.0f} s, {samples.answer}", file=sys.stderr)


def _write(folder: Path, rows: int, width: int, classes: int) -> tuple[Path, np.ndarray]:
    """Features of clusters, as a file of the cache; the array of them is gone when this returns."""
    random = np.random.default_rng(0)
    label = random.integers(0, classes, rows)
    centre = random.standard_normal((classes, width), dtype=np.float32)
    path = FeatureCache(folder).path("0" * 64)
    path.parent.mkdir(parents=True)
    tensor = {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, 4 * rows * width]}
    header = json.dumps({TENSOR: tensor}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as opened:
        opened.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, rows, 2**16):
            mine = label[start : start + 2**16]
            noise = random.standard_normal((len(mine), width), dtype=np.float32)
            opened.write((0.3 * centre[mine] + noise).tobytes())
    return path, label


if __name__ == "__main__":
    counts = sys.argv[2].split(",") if len(sys.argv) > 2 else ["300000"]
    for count in counts:
        main(Path(sys.argv[1]) / count, int(count), *map(int, sys.argv[3:]))
