"""Zero-shot scores of one checkpoint by this project's steps and by the real clip_benchmark command, side by side.

    python -m tests.benchmarks.agreement --data FOLDER --checkpoint FOLDER

The data are cifar10/test.parquet (image, label, class_name), tiny_imagenet/val.parquet (image, label) and
tiny_imagenet/classes.parquet (label, names), images as encoded bytes. This project reads the parquet rows, and
clip_benchmark shards made of the same bytes; class names and templates are those of the prepared sets. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tabulate import tabulate

from pipeline_steps.evaluation.datasets.prepared import read_prepared
from tests.clip_benchmark_runs import clip_benchmark, write_classification
from tests.evaluation_runs import evaluated

FILES = {"cifar10": "cifar10/test.parquet", "tiny_imagenet": "tiny_imagenet/val.parquet"}
MEASURES = {"top1": "acc1", "top5": "acc5", "mean_per_class": "mean_per_class_recall"}
HEADERS = ["set", "pictures", "measure", "this project", "clip_benchmark", "difference"]
Line = tuple[str, int, str, float, float, float]


def compare(data: Path, checkpoint: Path, work: Path, pictures: int | None = None) -> list[Line]:
    """A line per set and measure, fractions in [0, 1], over `pictures` of each set, evenly picked (None: all)."""
    parquet = {name: _picked(data / file, work / f"{name}.parquet", pictures) for name, file in FILES.items()}
    rows = {
        "cifar10": _row(parquet["cifar10"], 10, {"class_name_column": "class_name"}, "cifar10"),
        "tiny_imagenet": _row(parquet["tiny_imagenet"], 200, {"class_names": {
            "path": str((data / "tiny_imagenet" / "classes.parquet").resolve()), "label_column": "label",
            "name_column": "names",
        }}, "imagenet1k"),
    }  # fmt: skip
    scores, _ = evaluated(work / "ours", rows, checkpoint, eval_zeroshot={"topk": [1, 5]})
    lines: list[Line] = []
    for name, path in parquet.items():
        ours, prepared, table = scores[name], read_prepared(work / "ours" / name), pq.read_table(path)
        shards = write_classification(
            work / "shards" / name, {"test": (table["image"].to_pylist(), table["label"].to_pylist())},
            classes=prepared.classes, templates=prepared.templates, form="jpg",
        )  # fmt: skip
        theirs = clip_benchmark(shards, checkpoint, work / f"{name}.json", task="zeroshot_classification")
        for measure, other in MEASURES.items():
            lines.append((name, ours["n"], measure, ours[measure], theirs[other], ours[measure] - theirs[other]))
    return lines


def _picked(source: Path, target: Path, pictures: int | None) -> Path:
    table = pq.read_table(source)
    count = min(pictures or table.num_rows, table.num_rows)
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.take(pa.array([row * table.num_rows // count for row in range(count)])), target)
    return target.resolve()


def _row(path: Path, classes: int, names: Mapping[str, Any], templates: str) -> dict[str, Any]:
    source = {"kind": "parquet", "path": str(path), "label_column": "label", "splits": {"test": "test"}, **names}
    return {
        "title": path.stem, "tasks": ["classification"], "metric": "accuracy", "classes": classes,
        "n": {"test": pq.read_metadata(path).num_rows}, "templates": templates, "sources": [source],
    }  # fmt: skip


def main() -> None:
    """Compare on everything, or on `--pictures` of each set, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of cifar10 and tiny_imagenet")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder that open_clip loads")
    parser.add_argument("--pictures", type=int, help="so many of each set; all without it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        os.environ |= {"PIPELINE_RESULTS_DIR": work, "PIPELINE_RUNS_FOLLOWED": "1"}  # MLflow is not told
        lines = compare(arguments.data, arguments.checkpoint, Path(work), arguments.pictures)
    print(tabulate(lines, HEADERS, tablefmt="pipe", floatfmt=("", "", "", ".6f", ".6f", ".1e")))


if __name__ == "__main__":
    main()
