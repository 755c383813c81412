"""The evaluation of a checkpoint by this project's own steps, from rows of a table to scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline_steps import eval_retrieval, eval_zeroshot, extract_features, prepare_dataset
from pipeline_steps.core.step import Step
from tests.unit.paths import CONFIG

Scores = dict[str, dict[str, Any]]


def evaluated(
    folder: Path, rows: Mapping[str, Mapping[str, Any]], checkpoint: Path, **changes: Mapping[str, Any]
) -> tuple[Scores, Scores]:
    """Zero-shot and retrieval scores of the sets that are `rows` of a table, with some keys of sections changed.

    The steps run in `folder`, by their command lines, and leave their records under PIPELINE_RESULTS_DIR.
    """
    settings = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    settings |= {name: {**settings[name], **section} for name, section in changes.items()}
    settings |= {"experiment": "agreement", "results_dir": str(folder / "results")}
    settings["prepare_dataset"] |= {"datasets": list(rows), "root": str(folder)}
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "datasets.yaml"
    table.write_text(yaml.safe_dump(dict(rows)), encoding="utf-8")
    for name in rows:
        _run(prepare_dataset.STEP, settings, ["--dataset", name], dataset_table=[table], folder=[folder / name])
    index = folder / "features.json"
    prepared = [folder / name for name in rows]
    _run(extract_features.STEP, settings, [], checkpoint=[checkpoint], prepared=prepared, features=[index])
    tasks = {task for row in rows.values() for task in row["tasks"]}
    found: list[Scores] = []
    for step, task, outcomes in (
        (eval_zeroshot.STEP, "classification", "predictions"), (eval_retrieval.STEP, "retrieval", "ranks"),
    ):  # fmt: skip
        scores = folder / f"{step.name}.json"
        if task in tasks:
            outputs = {"scores": [scores], outcomes: [folder / f"{outcomes}.parquet"]}
            _run(step, settings, ["--method", "reference"], features=[index], **outputs)
        found.append(json.loads(scores.read_text(encoding="utf-8")) if task in tasks else {})
    return found[0], found[1]


def _run(step: Step, settings: Mapping[str, Any], options: Sequence[str], **paths: Sequence[Path]) -> None:
    known = {name: settings[name] for name in ("experiment", *step.sections)}
    places = [part for name, given in paths.items() for part in (f"--{name.replace('_', '-')}", *map(str, given))]
    status = step.main([*places, *options, "--settings", json.dumps(known)])
    if status:
        raise RuntimeError(f"{step.name} ended with {status}")
