"""The evaluation of a checkpoint on CIFAR-10, and the linear probe: this pipeline against clip_benchmark, scikit-learn.

    python -m tests.benchmarks.evaluation --cifar10 FOLDER [--checkpoint FOLDER]      # make bench CIFAR10=FOLDER
    python -m tests.benchmarks.evaluation                                             # what `make bench` runs without

FOLDER holds train.parquet and test.parquet (image, label, class_name). Without it the probe runs on bundled pictures
and made-up features, and no whole evaluation is compared. Tables are printed and written with a plot to --out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import yaml

from pipeline_steps.core.config import load_section
from pipeline_steps.core.schema import StrengthsConfig
from pipeline_steps.evaluation.datasets.prepared import read_prepared
from pipeline_steps.evaluation.features.index import Features
from pipeline_steps.models.clip import create_clip, save_clip
from tests.benchmarks.evaluation_report import Report, Whole
from tests.benchmarks.measure import machine_in_words
from tests.benchmarks.probe import TOLERANCE, Comparison, Examples, compare, costs, made_features
from tests.clip_benchmark_runs import SHARD_PICTURES, clip_benchmark, write_classification
from tests.real_features import bundled_pictures
from tests.unit.paths import CONFIG, REPOSITORY

ARCHITECTURE = REPOSITORY / "config" / "models" / "openclipart_rn.json"
NAME = "cifar10"


def main(arguments: list[str] | None = None) -> None:
    """Run what there are data for, print the Markdown, write it and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, help="folder of train.parquet and test.parquet")
    parser.add_argument("--checkpoint", type=Path, help="folder that open_clip loads; random weights without it")
    parser.add_argument("--sizes", type=int, nargs="+", default=[6250, 12500, 25000, 50000])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 30, 100, 300, 1000])
    parser.add_argument("--rows", type=int, default=12500, help="rows where the classes vary, and of made-up features")
    parser.add_argument("--width", type=int, default=512, help="of made-up features")
    parser.add_argument("--repeats", type=int, default=3, help="sweeps of this pipeline; scikit-learn makes one")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="of scikit-learn in the sweeps")
    parser.add_argument("--limit", type=float, default=40, help="seconds: a fit of scikit-learn's above them is out")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "benchmarks")
    given = parser.parse_args(arguments)
    settings = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    strengths = load_section(settings, "eval_probe.inverse_l2", StrengthsConfig)
    whole, compared = None, []
    if given.cifar10:
        whole, examples = _whole(given.cifar10, given.checkpoint, settings)
        compared.append(compare(examples, strengths, repeats=given.repeats, tolerance=given.tolerance))
        whole.theirs["scikit-learn, the probe's sweep"] = compared[0].theirs_seconds
    else:
        compared += _without_cifar10(given, strengths)
    cost = costs(given.sizes, given.classes, rows=given.rows, width=given.width, limit=given.limit)
    report = Report(machine_in_words(torch.device("cpu")), whole, compared, cost, given.width, given.limit)
    print(report.write(given.out))


def _without_cifar10(given: argparse.Namespace, strengths: StrengthsConfig) -> list[Comparison]:
    count = min(4000, given.rows)
    image, label = bundled_pictures(min(given.width, 128), count)
    words = f"principal components of the pixels of {count:,} bundled pictures"
    real, made = Examples(words, image, label), made_features(given.rows, given.width, 10)
    return [compare(one, strengths, repeats=given.repeats, tolerance=given.tolerance) for one in (real, made)]


def _whole(cifar10: Path, checkpoint: Path | None, settings: Mapping[str, Any]) -> tuple[Whole, Examples]:
    """Seconds of every process of both sides, and the training features that the probe is fitted on."""
    with tempfile.TemporaryDirectory() as made:
        work = Path(made)
        weights = "a given checkpoint" if checkpoint else "random weights"
        checkpoint = (checkpoint or _random_weights(work / "checkpoint")).resolve()
        ours, scores = _ours(cifar10, checkpoint, work, settings)
        theirs, metrics = _theirs(cifar10, checkpoint, work)
        rows = {split: pq.read_metadata(cifar10 / f"{split}.parquet").num_rows for split in ("train", "test")}
        features = Features(work / "features.json")
        raw = features.raw(f"{NAME}/train/image")
        image, label = raw.rows(0, raw.shape[0]), features.labels(NAME, "train")
        title = f"CIFAR-10 ({raw.shape[0]:,} x {raw.shape[1]}, {weights})"
        return Whole(weights, rows, ours, theirs, scores, metrics), Examples(title, image, label)


def _ours(
    cifar10: Path, checkpoint: Path, work: Path, settings: Mapping[str, Any]
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each step, a process each as Snakemake starts them, and top-1 of zero-shot and probe."""
    row = _row(cifar10)
    (work / "datasets.yaml").write_text(yaml.safe_dump({NAME: row}), encoding="utf-8")
    changed = {name: dict(value) if isinstance(value, Mapping) else value for name, value in settings.items()}
    changed |= {"experiment": "benchmark", "results_dir": str(work / "results")}
    changed["prepare_dataset"] |= {"datasets": [NAME], "root": str(work)}
    (work / "config.yaml").write_text(yaml.safe_dump(changed), encoding="utf-8")
    index, method = work / "features.json", ["--method", "reference"]
    prepared = {"dataset": NAME, "dataset_table": work / "datasets.yaml", "folder": work / NAME}
    steps: dict[str, tuple[dict[str, object], Sequence[str]]] = {
        "prepare_dataset": (prepared, ()),
        "extract_features": ({"checkpoint": checkpoint, "prepared": work / NAME, "features": index}, ()),
    }
    for step in ("eval_zeroshot", "eval_probe"):
        outputs = {"scores": work / f"{step}.json", "predictions": work / f"{step}.parquet"}
        steps[step] = ({"features": index, **outputs}, method)
    taken = {}
    for step, (paths, rest) in steps.items():
        options = [word for name, value in paths.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        command = [sys.executable, "-m", f"pipeline_steps.{step}", *options, *rest]
        taken[step] = _timed([*command, "--config", str(work / "config.yaml")], work)
    found = {step: json.loads((work / f"{step}.json").read_text(encoding="utf-8"))[NAME] for step in list(steps)[2:]}
    return taken, {"top1": found["eval_zeroshot"]["top1"], "probe": found["eval_probe"]["accuracy"]}


def _theirs(cifar10: Path, checkpoint: Path, work: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of the real command on shards of the same bytes, split by split, and its metrics on test.

    Its probe begins with a pass over both splits, whatever zero-shot has done before: the command stands for it.
    """
    prepared, splits = read_prepared(work / NAME), {}
    for split in ("test", "train"):
        table = pq.read_table(cifar10 / f"{split}.parquet")
        splits[split] = table["image"].to_pylist(), table["label"].to_pylist()
    shards = write_classification(
        work / "shards" / NAME, splits, classes=prepared.classes, templates=prepared.templates, form="jpg"
    )
    taken, metrics = {}, {}
    for title, split in (("zero-shot, test", "test"), ("probe, train", "train"), ("probe, test", "test")):
        workers = min(4, os.cpu_count() or 1, -(-len(splits[split][1]) // SHARD_PICTURES))
        options = ("--num_workers", str(workers), "--split", split)
        output, started = work / f"{title}.json", time.perf_counter()
        metrics[title] = clip_benchmark(shards, checkpoint, output, task="zeroshot_classification", options=options)
        taken[f"clip_benchmark, {title} pictures"] = time.perf_counter() - started
    return taken, metrics["zero-shot, test"]


def _row(cifar10: Path) -> dict[str, Any]:
    """The row of config/datasets.yaml, with these files as its source."""
    row = yaml.safe_load((REPOSITORY / "config" / "datasets.yaml").read_text(encoding="utf-8"))[NAME]
    path = str(cifar10.resolve() / "{split}.parquet")
    columns = {"label_column": "label", "class_name_column": "class_name"}
    row["sources"] = [{"kind": "parquet", "path": path, "splits": {"test": "test", "train": "train"}, **columns}]
    row["n"] = {split: pq.read_metadata(cifar10 / f"{split}.parquet").num_rows for split in ("test", "train")}
    labels = pq.read_table(cifar10 / "test.parquet", columns=["label"])["label"].to_numpy()
    row["classes"] = len(np.unique(labels))
    return dict(row)


def _random_weights(folder: Path) -> Path:
    torch.manual_seed(0)
    save_clip(folder, create_clip(str(ARCHITECTURE)))
    return folder


def _timed(command: Sequence[str], work: Path) -> float:
    environment = {**os.environ, "PIPELINE_RESULTS_DIR": str(work)}
    started = time.perf_counter()
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} ended with {done.returncode}: {done.stderr[-3000:]}")
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
