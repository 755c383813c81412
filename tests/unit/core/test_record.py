"""How a step's process ends, and what its record says of that."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pipeline_steps.core.record import Record, Run, RunIdentity, fingerprint_of, read_record, recorded_run
from tests.unit.paths import REPOSITORY
from tests.unit.step_runs import runs_of

STEP = """
import sys, time
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.step import Step

def run(context):
    context.run.log_metrics({"loss": 2.0}, 0)
    context.run.log_metrics({"loss": 1.0}, 1)
    context.run.log_scores({"retrieval/mean_recall": 0.5})
    behaviour = context.paths["behaviour"].read_text()
    if behaviour == "mistake":
        raise PipelineError("fact, place and remedy")
    if behaviour == "full disk":
        from pipeline_steps.core.files import whole_file
        with whole_file(context.paths["out"]) as partial:
            partial.write_bytes(b"x" * 100_000)
    if behaviour == "bug":
        raise ValueError("a bug")
    if behaviour == "long":
        context.paths["out"].with_suffix(".started").touch()
        time.sleep(60)
    context.paths["out"].write_text("done")

step = Step("eval_retrieval", "Test.", ("eval_retrieval",), {"behaviour": "what to do"}, {"out": "a file"}, run)
sys.exit(step.main())
"""
STAGE = "eval_retrieval"


def _small_files() -> None:
    """The disk is full after 4 KiB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


class Place:
    """A folder with the step and its results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "step.py").write_text(STEP)

    def start(
        self, behaviour: str, recall_at: Sequence[int] = (1,), seed: int = 0, before: Callable[[], None] | None = None
    ) -> subprocess.Popen[str]:
        (self.folder / "behaviour").write_text(behaviour)
        settings = json.dumps({"experiment": "test", STAGE: {"recall_at": list(recall_at)}})
        command = [
            sys.executable, str(self.folder / "step.py"), "--settings", settings, "--method", "ncu", "--seed",
            str(seed), "--behaviour", str(self.folder / "behaviour"), "--out", str(self.folder / f"out{seed}"),
        ]  # fmt: skip

        def prepare() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests in the background inherit none
            if before:
                before()

        environment = os.environ | {"PIPELINE_RESULTS_DIR": str(self.folder), "PYTHONPATH": str(REPOSITORY)}
        return subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=prepare
        )

    def run(
        self, behaviour: str, recall_at: Sequence[int] = (1,), before: Callable[[], None] | None = None
    ) -> tuple[int, str]:
        process = self.start(behaviour, recall_at, before=before)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def start_and_wait(self, seed: int) -> subprocess.Popen[str]:
        process = self.start("long", seed=seed)
        started = self.folder / f"out{seed}.started"
        deadline = time.monotonic() + 100
        while not started.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        assert started.exists()
        return process

    def last(self) -> Record:
        return runs_of(STAGE, results=self.folder)[-1]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_step_that_ends_well_has_recorded_what_it_was(place: Place) -> None:
    assert place.run("well")[0] == 0
    (record,) = runs_of(STAGE, results=place.folder)
    assert (record.status, record.identity) == ("FINISHED", RunIdentity("test", STAGE, "ncu", 0))
    losses = [(value, step) for name, value, _, step in record.points if name == "loss"]
    assert losses == [(2.0, 0), (1.0, 1)]
    assert record.scores == {"retrieval/mean_recall": 0.5}
    assert {"wall_seconds", "peak_memory_mib", "retrieval/mean_recall"} <= record.metrics.keys()
    assert record.params == {f"{STAGE}.recall_at": "[1]"}
    assert len(record.tags["git_commit"]) >= 7
    assert len(record.tags["input.behaviour.sha256"]) == len(record.tags["output.out.sha256"]) == 64


def test_a_mistake_of_the_user_ends_as_failed_without_a_traceback(place: Place) -> None:
    code, output = place.run("mistake")
    assert code == 1
    assert "eval_retrieval: fact, place and remedy" in output
    assert "Traceback" not in output
    assert place.last().status == "FAILED"


def test_a_bug_ends_as_failed_with_its_traceback(place: Place) -> None:
    code, output = place.run("bug")
    assert code == 1
    assert "ValueError: a bug" in output
    assert place.last().status == "FAILED"


def test_a_full_disk_is_said_and_the_record_has_the_end(place: Place) -> None:
    code, output = place.run("full disk", before=_small_files)
    assert code == 1
    assert "no room to write" in output
    assert "Traceback" not in output
    assert place.last().status == "FAILED"


def test_a_record_that_cannot_be_written_fails_no_step(place: Place) -> None:
    (place.folder / "test").write_text("in the place of the experiment's folder")
    code, output = place.run("well")
    assert code == 0
    assert output.count("the record of this run is not complete") == 1
    assert (place.folder / "out0").read_text() == "done"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_as_killed(place: Place, number: int) -> None:
    process = place.start_and_wait(seed=1)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "its run is recorded as KILLED" in output
    assert place.last().status == "KILLED"


def test_a_second_run_of_the_same_output_is_refused_while_the_first_lives(place: Place) -> None:
    process = place.start_and_wait(seed=0)
    try:
        code, output = place.run("well")
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert code == 1
    assert "another process is writing" in output


def test_a_half_written_last_line_counts_when_it_is_whole(tmp_path: Path) -> None:
    run = Run(tmp_path, "f")
    assert read_record(tmp_path) is None
    run.start(RunIdentity("e", "unlearn", "ncu", 0), {}, {})
    whole = (tmp_path / "record.jsonl").read_bytes()
    run.log_metrics({"odd": math.nan, "large": math.inf}, 3)
    both = (tmp_path / "record.jsonl").read_bytes()
    (tmp_path / "record.jsonl").write_bytes(both[:-5])
    record = read_record(tmp_path)
    assert record is not None
    assert record.points == []
    (tmp_path / "record.jsonl").write_bytes(both)
    record.read_on()
    record.read_on()
    assert len(both) > len(whole)
    assert [(name, step) for name, _, _, step in record.points] == [("odd", 3), ("large", 3)]
    assert math.isnan(record.metrics["odd"])
    assert record.metrics["large"] == math.inf


def test_half_a_line_that_a_full_disk_left_costs_no_other_line(tmp_path: Path) -> None:
    run = Run(tmp_path, "f")
    run.start(RunIdentity("e", "unlearn", "ncu", 0), {}, {})
    with (tmp_path / "record.jsonl").open("a") as stream:
        stream.write('{"event": "metrics", "ti')
    (tmp_path / "record.jsonl").rename(tmp_path / "kept")
    (tmp_path / "record.jsonl").mkdir()  # which no line can be written to
    run.log_metrics({"loss": 1.0})
    (tmp_path / "record.jsonl").rmdir()
    (tmp_path / "kept").rename(tmp_path / "record.jsonl")
    run.log_metrics({"loss": 2.0})
    run.end("FAILED")
    record = read_record(tmp_path)
    assert record is not None
    assert (record.metrics, record.status) == ({"loss": 2.0}, "FAILED")


def test_files_are_kept_as_they_were_and_large_ones_are_not(tmp_path: Path) -> None:
    with recorded_run(RunIdentity("e", "unlearn", "ncu", 0), {}, {}, tmp_path / "out") as run:
        (tmp_path / "small.json").write_text("first")
        run.log_file(tmp_path / "small.json", "tables")
        (tmp_path / "small.json").write_text("second")
        (tmp_path / "large").write_bytes(bytes(5 * 2**20 + 1))
        run.log_file(tmp_path / "large")
        run.log_text("card", "README.md")
    assert run.folder is not None
    record = read_record(run.folder)
    assert record is not None
    assert record.files == ["tables/small.json", "README.md"]
    assert (run.folder / "files/tables/small.json").read_text() == "first"


def test_settings_that_change_no_result_are_not_in_the_fingerprint() -> None:
    plain = {"training": {"lr": 1.0, "workers": 0, "save_minutes": 5, "chunk_size": None}}
    other = {"training": {"lr": 1.0, "workers": 8, "save_minutes": 1, "chunk_size": 4}}
    assert fingerprint_of(plain, {"pairs": "a"}) == fingerprint_of(other, {"pairs": "a"})
    assert fingerprint_of(plain, {"pairs": "a"}) != fingerprint_of(plain, {"pairs": "b"})
    assert fingerprint_of(plain, {}) != fingerprint_of({"training": {"lr": 2.0}}, {})
