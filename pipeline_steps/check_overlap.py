"""Counts the evaluation pictures that training has seen, by their bytes and by perceptual hash, and names them."""

from __future__ import annotations

import sys

from pipeline_steps.core.files import write_json
from pipeline_steps.core.step import Step, StepContext


def run(context: StepContext) -> None:
    """Every test picture of every set against every picture of the manifest's training split."""
    from pipeline_steps.core.schema import CheckOverlapConfig
    from pipeline_steps.data.database import working_database
    from pipeline_steps.evaluation.datasets.prepared import read_prepared
    from pipeline_steps.evaluation.overlap import (
        create_tables,
        find_overlaps,
        overlap_report,
        take_evaluation,
        take_training,
        write_overlaps,
    )

    bits = context.section("check_overlap", CheckOverlapConfig).max_distance_bits
    sets = [read_prepared(folder) for folder in context.several["prepared"]]
    overlaps = context.paths["overlaps"]
    with working_database(overlaps, threads=context.threads) as database:
        create_tables(database)
        take_training(database, context.paths["pairs"])
        take_evaluation(database, sets)
        find_overlaps(database, max_distance_bits=bits)
        write_overlaps(database, overlaps)
        report = overlap_report(database, overlaps, sets, max_distance_bits=bits)
    write_json(context.paths["report"], report)
    context.run.log_file(context.paths["report"])
    for name, found in report.items():
        if "hole" in found:
            context.log.warning("%s was not compared: %s", name, found["hole"])
        else:
            context.log.info("%s: %d pictures, %d exact, %d near", name, found["n"], found["exact"], found["near"])
            context.run.log_metrics({f"{name}/{key}": found[key] for key in ("exact", "near", "degenerate")})


STEP = Step(
    name="check_overlap",
    summary="Finds the evaluation pictures that training has seen.",
    sections=("check_overlap",),
    inputs={
        "pairs": "pairs.parquet of build_manifest",
        "prepared": "folders of prepare_dataset, one per evaluation set",
    },
    outputs={
        "overlaps": "parquet, a row per test picture that training has seen: dataset, row, kind, train_id, ...",
        "report": "JSON: for each set how many test pictures there are, exact, near and degenerate",
    },
    run=run,
    reads={"prepared": ("dataset.json",)},
    several=("prepared",),
)

if __name__ == "__main__":
    sys.exit(STEP.main())
