"""Time and memory of all intervals of a whole grid of real sizes: `python -m tests.benchmarks.intervals`.

Random answers for the 16 classification sets (zero-shot and probe) and both retrieval sets of the paper, in the files
that evaluations write, 17 methods and 3 seeds; then what make_tables does with them.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline_steps.core.methods import METHODS, REFERENCE
from pipeline_steps.reporting.grid import read_grid
from pipeline_steps.reporting.measured import Bootstrap, measure_grid
from pipeline_steps.reporting.outcomes import classification_score, recall_scores
from pipeline_steps.reporting.summary import summarise

SETS = {
    "imagenet1k": (50_000, 1000), "caltech101": (6085, 102), "cifar10": (10_000, 10), "cifar100": (10_000, 100),
    "dtd": (1880, 47), "fgvc_aircraft": (3333, 100), "renderedsst2": (1821, 2), "flowers": (6149, 102),
    "food101": (25_250, 101), "gtsrb": (12_630, 43), "pets": (3669, 37), "resisc45": (25_200, 45),
    "sun397": (19_850, 397), "eurosat": (5000, 10), "cars": (8041, 196), "stl10": (8000, 10),
}  # fmt: skip
RETRIEVAL = {"flickr30k": 1000, "mscoco": 5000}
KS = (1, 5, 10)


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", type=int, default=17)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=2000)
    arguments = parser.parse_args()
    methods = tuple(name for name in METHODS if name != REFERENCE)[: arguments.methods - 1]
    seeds = tuple(range(arguments.seeds))
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        for method in (REFERENCE, *methods):
            for seed in seeds:
                write_cell(results, method, seed)
        started = time.perf_counter()
        grid = read_grid(results, methods, seeds)
        read = time.perf_counter()
        measured = measure_grid(grid, Bootstrap(arguments.samples, 0.95, 0))
        drawn = time.perf_counter()
        summary = summarise(measured)
        done = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{len(grid.methods)} methods x {len(seeds)} seeds x {len(SETS) + len(RETRIEVAL)} sets x {arguments.samples} "
        f"resamples: read {read - started:.1f} s, resampled {drawn - read:.1f} s, {len(summary.cells)} cells of the "
        f"summary {done - drawn:.1f} s; peak {peak:.2f} GiB"
    )


def write_cell(results: Path, method: str, seed: int) -> None:
    """The three evaluations of one checkpoint, right one time in three."""
    random = np.random.default_rng([seed, sum(map(ord, method))])
    for stage in ("eval_zeroshot", "eval_probe"):
        frames, scores = [], {}
        for name, (pictures, classes) in SETS.items():
            label = np.arange(pictures) % classes
            prediction = np.where(random.random(pictures) < 1 / 3, label, (label + 1) % classes)
            rows = {"row": np.arange(pictures), "label": label, "prediction": prediction}
            frame = pd.DataFrame({"dataset": name, **rows, "rank": 1 + (prediction != label) * 3})
            measures = (
                ["top1", "top5", "mean_per_class"] if stage == "eval_zeroshot" else ["accuracy", "mean_per_class"]
            )
            found = {measure: classification_score(frame, measure) for measure in measures}
            chance = {f"chance_{measure}": 1 / classes for measure in measures}
            scores[name] = {**found, **chance, "n": pictures, "split": "test", "metric": "accuracy"}
            frames.append(frame)
        _write(results / stage / method / f"seed{seed}", "predictions.parquet", frames, scores)
    frames, scores = [], {}
    for name, images in RETRIEVAL.items():
        frame = ranks(random, images).assign(dataset=name)
        found = recall_scores(frame, KS)
        scores[name] = {
            **found,
            **{f"chance_{measure}": 0.01 for measure in found},
            "n_images": images,
            "split": "test",
        }
        frames.append(frame)
    _write(results / "eval_retrieval" / method / f"seed{seed}", "ranks.parquet", frames, scores)


def ranks(random: np.random.Generator, images: int) -> pd.DataFrame:
    """Ranks of pictures with five captions each."""
    image, caption = np.arange(images), np.repeat(np.arange(images), 5)
    parts = []
    for direction, owner in (("image_to_text", image), ("text_to_image", caption)):
        rank = random.integers(1, 30, len(owner))
        columns = {"query": np.arange(len(owner)), "image": owner, "rank": rank}
        parts.append(pd.DataFrame({"direction": direction, **columns}))
    return pd.concat(parts, ignore_index=True)


def _write(folder: Path, name: str, frames: list[pd.DataFrame], scores: dict[str, dict[str, object]]) -> None:
    folder.mkdir(parents=True)
    pd.concat(frames, ignore_index=True).to_parquet(folder / name, index=False)
    (folder / "scores.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    main()
