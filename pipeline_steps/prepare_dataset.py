"""Prepares one evaluation set: its pictures found and checked, its labels, captions, class names and prompts."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline_steps.core.step import Step, StepContext


def run(context: StepContext) -> None:
    """From the row of the table to a folder; a set that cannot be had is said there and here, and is no error."""
    from pipeline_steps.core.schema import PrepareDatasetConfig
    from pipeline_steps.evaluation.datasets.prepare import dataset_row, prepare

    settings = context.section("prepare_dataset", PrepareDatasetConfig)
    name = context.options["dataset"]
    row = dataset_row(context.paths["dataset_table"], name)
    facts = prepare(name, row, Path(settings.root), context.paths["folder"], processes=context.threads)
    if facts["hole"]:
        context.log.warning("%s cannot be had: %s", name, facts["hole"])
    for split, reason in facts["missing"].items():
        context.log.warning("%s has no split %s: %s", name, split, reason)
    for split, found in facts["splits"].items():
        context.log.info("%s %s: %d pictures of %s", name, split, found["n"], facts["source"])
    context.run.log_metrics({f"{name}/{split}/n": found["n"] for split, found in facts["splits"].items()})


STEP = Step(
    name="prepare_dataset",
    summary="Prepares one evaluation set, or says why it cannot be had.",
    sections=("prepare_dataset",),
    inputs={
        "dataset_table": "YAML with a row per evaluation set",
        "files": "optional: files on this machine that the row names, so that a change of one is seen",
    },
    outputs={"folder": "dataset.json, a parquet per split, and pictures.tar where pictures had no file of their own"},
    run=run,
    several=("files",),
    options={"dataset": "the row's name"},
)

if __name__ == "__main__":
    sys.exit(STEP.main())
