"""What sharing a job saves, and what ranking costs: `python -m tests.benchmarks.features --repeats 3`.

Prints two tables: embeddings of the bundled pictures by several checkpoints in one job and in a job each (whole
processes, from an empty cache), and ranks against the same ranks from one float64 matrix per chunk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
import yaml
from tabulate import tabulate
from threadpoolctl import threadpool_limits

from pipeline_steps.evaluation import ranking
from pipeline_steps.evaluation.datasets.prepare import dataset_row, prepare
from pipeline_steps.models.clip import create_clip, save_clip
from tests.benchmarks.measure import machine_in_words
from tests.results_tree import unit
from tests.unit.paths import CONFIG, REPOSITORY

SIZES = (("50,000 pictures x 1,000 classes", 50_000, 1_000), ("25,000 captions x 5,000 pictures", 25_000, 5_000))
WIDTH = 512


def clocks() -> npt.NDArray[np.float64]:
    """Seconds on the wall, and of CPU in child processes, which other work on the machine does not lengthen."""
    times = os.times()
    return np.array([time.perf_counter(), times.children_user + times.children_system])


def in_turn(calls: Sequence[Callable[[], None]], repeats: int) -> npt.NDArray[np.float64]:
    """Median seconds of each call, all of them once per round: (calls, 2), as `clocks` has them."""
    rounds = []
    for _ in range(repeats):
        taken = []
        for call in calls:
            started = clocks()
            call()
            taken.append(clocks() - started)
        rounds.append(taken)
    return np.median(np.array(rounds), axis=0)


def extract(folder: Path, checkpoints: Sequence[Path]) -> None:
    """A process of extract_features with a cache of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as results:
        section = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["extract_features"]
        settings = {"experiment": "benchmark", "results_dir": results, "extract_features": section}
        command = [
            sys.executable, "-m", "pipeline_steps.extract_features", "--checkpoint", *map(str, checkpoints),
            "--prepared", str(folder / "openclipart"), "--settings", json.dumps(settings),
            "--features", *(f"{results}/{number}/features.json" for number, _ in enumerate(checkpoints)),
        ]  # fmt: skip
        environment = {**os.environ, "PIPELINE_RESULTS_DIR": str(folder)}
        subprocess.run(command, check=True, capture_output=True, env=environment, cwd=REPOSITORY)


def shared_jobs(count: int, repeats: int) -> list[list[object]]:
    """Seconds of one job for `count` checkpoints, and of a job for each, one after another."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        row = dataset_row(REPOSITORY / "config" / "datasets.yaml", "openclipart")
        prepare("openclipart", row, REPOSITORY, folder / "openclipart")
        checkpoints = [folder / f"checkpoint{number}" for number in range(count)]
        for number, checkpoint in enumerate(checkpoints):
            torch.manual_seed(number)
            save_clip(checkpoint, create_clip(str(REPOSITORY / "config/models/openclipart_rn.json")))

        def one_each() -> None:
            for checkpoint in checkpoints:
                extract(folder, [checkpoint])

        together, alone = in_turn([lambda: extract(folder, checkpoints), one_each], repeats)
    name = f"{count} checkpoints, 5,435 pictures of 64 px"
    return [[f"{name}, {clock}", *two] for clock, two in zip(("wall", "CPU"), _ratios(together, alone), strict=True)]


def ranks(name: str, queries: int, gallery: int, repeats: int) -> list[object]:
    """Seconds of ranking with random embeddings near their match, as it is and from a float64 matrix per chunk."""
    random = np.random.default_rng(0)
    gallery_gd = unit(random.normal(size=(gallery, WIDTH)))
    owner = random.integers(0, gallery, size=queries)
    query_qd = unit(0.3 * gallery_gd[owner] + unit(random.normal(size=(queries, WIDTH))))
    found: dict[str, ranking.Ranking] = {}

    def rank(way: str) -> None:
        found[way] = ranking.rank_matches(query_qd, gallery_gd, owner, np.arange(gallery))

    def in_double() -> None:
        double = ranking._rank_chunk_in_double
        with patch.object(ranking, "_rank_chunk", lambda query, rows, matches, _: double(query, rows, matches)):
            rank("double")

    taken, double = in_turn([lambda: rank("single"), in_double], repeats)
    if any((one != other).any() for one, other in zip(found["single"], found["double"], strict=True)):
        raise SystemExit(f"{name}: the two ways do not rank alike")
    return [f"{name}, width {WIDTH}", *next(_ratios(taken, double))]


def _ratios(ours: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> Iterator[tuple[float, float, float]]:
    """For each clock both times, and how many times longer the other's is."""
    for left, right in zip(ours, other, strict=True):
        yield left, right, right / left if left else float("nan")


def main(repeats: int, checkpoints: int) -> None:
    """Print the machine and both tables."""
    print(machine_in_words(torch.device("cpu")))
    header = ["extract_features", "one job (s)", "a job each (s)", "ratio"]
    print(tabulate(shared_jobs(checkpoints, repeats), header, "github", floatfmt=".1f"), "\n")
    with threadpool_limits(torch.get_num_threads()):
        rows = [ranks(*size, repeats) for size in SIZES]
    print(tabulate(rows, ["ranking", "now (s)", "float64 throughout (s)", "ratio"], "github", floatfmt=".2f"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checkpoints", type=int, default=3)
    given = parser.parse_args()
    main(given.repeats, given.checkpoints)
