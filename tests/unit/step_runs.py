"""Running a step by its command line, and the records that it leaves in the test's own results folder."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline_steps.core.record import Record, read_record, record_folders, results_dir
from pipeline_steps.core.step import SHARED, Step
from tests.results_tree import SETTINGS


def command(step: Step, *, settings: dict[str, object] | None = None, method: str = "ncu", **paths: Path) -> int:
    """The step's exit status for `--name path` of every path and the sections that it wants."""
    known = {**SETTINGS, **(settings or {})}
    chosen = {"experiment": "test", **{name: known[name] for name in step.sections}}
    options = [part for name, path in paths.items() for part in (f"--{name}", str(path))]
    owner = [] if step.name in SHARED else ["--method", method]
    return step.main([*options, "--settings", json.dumps(chosen), *owner])


def runs_of(stage: str, experiment: str = "test", results: Path | None = None) -> list[Record]:
    """The records of a stage, the earliest first; in PIPELINE_RESULTS_DIR unless said otherwise."""
    found = [read_record(folder) for folder in record_folders(results or results_dir(), experiment)]
    return sorted(
        (record for record in found if record and record.identity.stage == stage), key=lambda record: record.started
    )
