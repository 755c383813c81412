"""The real clip_benchmark command, and data sets in its webdataset layout, which both it and this project read.

As a script it is that command, with one line of clip-benchmark 1.6.2 mended: its zero-shot accuracy makes a number of
an array with one element, which numpy refuses from 2.4 on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from tests.unit.data.made_data import write_tar
from tests.unit.paths import REPOSITORY

SHARD_PICTURES = 1000
SECONDS = 1200


def write_classification(
    folder: Path, splits: dict[str, tuple[Sequence[bytes], Sequence[int]]], *, classes: Sequence[str],
    templates: Sequence[str], form: str,
) -> Path:  # fmt: skip
    """A set with these splits of encoded pictures (`form`: their file ending) and class indices."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classnames.txt").write_text("\n".join(classes), encoding="utf-8")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(templates), encoding="utf-8")
    (folder / "dataset_type.txt").write_text("classification")
    for split, (pictures, labels) in splits.items():
        _write_split(folder / split, pictures, [str(label) for label in labels], form, "cls")
    return folder


def write_retrieval(folder: Path, pictures: Sequence[bytes], captions: Sequence[Sequence[str]], *, form: str) -> Path:
    """A test split of encoded pictures, each with any number of captions."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_type.txt").write_text("retrieval")
    _write_split(folder / "test", pictures, ["\n".join(texts) for texts in captions], form, "txt")
    return folder


def clip_benchmark(
    folder: Path, checkpoint: Path, output: Path, *, task: str, options: Sequence[str] = ()
) -> dict[str, float]:
    """Its metrics for a checkpoint folder on the set in `folder`, in full precision on CPU, in a process of its own."""
    arguments = [
        sys.executable, "-m", "tests.clip_benchmark_runs", "eval", "--dataset", f"wds/{folder.name}",
        "--dataset_root", str(folder.resolve()), "--task", task, "--model", f"local-dir:{checkpoint.resolve()}",
        "--pretrained", "none", "--no_amp", "--num_workers", "0", "--output", str(output.resolve()), *options,
    ]  # fmt: skip
    hidden = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(  # noqa: S603 - arguments from above
        arguments, env={**os.environ, **hidden}, cwd=REPOSITORY, capture_output=True, text=True, timeout=SECONDS,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"clip_benchmark ended with {done.returncode}: {done.stderr[-3000:]}")
    metrics: dict[str, float] = json.loads(output.read_text(encoding="utf-8"))["metrics"]
    return metrics


def _write_split(folder: Path, pictures: Sequence[bytes], answers: Sequence[str], form: str, kind: str) -> None:
    shards = -(-len(pictures) // SHARD_PICTURES)
    for shard in range(shards):
        rows = range(shard * SHARD_PICTURES, min((shard + 1) * SHARD_PICTURES, len(pictures)))
        members = [
            member
            for row in rows
            for member in ((f"{row:07d}.{form}", pictures[row]), (f"{row:07d}.{kind}", answers[row].encode()))
        ]
        write_tar(folder / f"{shard}.tar", members)
    (folder / "nshards.txt").write_text(str(shards))


def _accuracy(output: Tensor, target: Tensor, topk: tuple[int, ...] = (1,)) -> list[float]:
    """clip_benchmark's function of this name, with `.item()` where it has `float(....numpy())`."""
    pred = output.topk(max(topk), 1, True, True)[1].t()
    correct = pred.eq(target.view(1, -1).expand_as(pred))
    return [correct[:k].reshape(-1).float().sum(0, keepdim=True).item() / len(target) for k in topk]


if __name__ == "__main__":
    from clip_benchmark.cli import main
    from clip_benchmark.metrics import zeroshot_classification

    zeroshot_classification.accuracy = _accuracy
    main()
