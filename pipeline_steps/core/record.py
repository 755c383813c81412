"""The record of a run: a file that only grows, beside the results. MLflow is a view of it (pipeline_steps/tracking/).

<results_dir>/<experiment>/runs/<name>/record.jsonl   a JSON object per line: start, metrics, scores, tags, file, end
                                       files/          the run's small files, as they were when they were logged

Recording never fails a step: where a line cannot be written, the log says so once, and the step goes on without.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline_steps.core.process import Terminated, peak_memory_mib, process_tags, stop_raises

LOG = logging.getLogger("pipeline_steps")
FOLDER, FILE, FILES = "runs", "record.jsonl", "files"
RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"
_LARGEST_FILE = 5 * 2**20
_NEUTRAL = {"workers", "save_minutes", "chunk_size"}


def results_dir() -> Path:
    """The folder of all experiments' results: PIPELINE_RESULTS_DIR, or results."""
    return Path(os.environ.get("PIPELINE_RESULTS_DIR") or "results").absolute()


@dataclass(frozen=True)
class RunIdentity:
    """Which cell of the experiment a run fills: at most one of its runs counts."""

    experiment: str
    stage: str
    method: str
    seed: int


class Run:
    """An open record; without a folder (of a process that does not lead) nothing is written.

    `fingerprint` is a sha256 over the step's settings and the hashes of its inputs.
    """

    def __init__(self, folder: Path | None, fingerprint: str) -> None:
        self.folder, self.fingerprint, self._lost = folder, fingerprint, False

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record numbers at a training step, or the final ones at step 0."""
        self._write("metrics", step=step, values={name: float(value) for name, value in metrics.items()})

    def log_scores(self, scores: Mapping[str, float]) -> None:
        """Record final scores, which also stand where methods are compared."""
        self._write("scores", step=0, values={name: float(value) for name, value in scores.items()})

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of a small file; one above 5 MiB stays where it is (the step tags path and sha256)."""
        if path.stat().st_size <= _LARGEST_FILE:
            self._keep(Path(folder or "", path.name), lambda kept: shutil.copyfile(path, kept))

    def log_text(self, text: str, name: str) -> None:
        """Keep a text as a file of the run."""
        self._keep(Path(name), lambda kept: kept.write_text(text, encoding="utf-8"))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Record further tags."""
        self._write("tags", tags=dict(tags))

    def start(self, identity: RunIdentity, tags: Mapping[str, str], params: Mapping[str, str]) -> None:
        """Write the first line."""
        self._write("start", identity=asdict(identity), tags=dict(tags), params=dict(params))

    def end(self, status: str) -> None:
        """Write the last line: FINISHED, FAILED or KILLED."""
        self._write("end", status=status)

    def _write(self, event: str, **content: Any) -> None:
        if self.folder is None:
            return
        line = json.dumps({"event": event, "time": int(time.time() * 1000), **content}) + "\n"
        line = "\n" + line if self._lost else line  # what did not fit may have left half a line
        with self._forgiven():
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / FILE).open("a", encoding="utf-8") as stream:
                stream.write(line)

    def _keep(self, name: Path, fill: Callable[[Path], object]) -> None:
        if self.folder is None:
            return
        with self._forgiven():
            kept = self.folder / FILES / name
            kept.parent.mkdir(parents=True, exist_ok=True)
            fill(kept)
            self._write("file", name=name.as_posix())

    @contextmanager
    def _forgiven(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._lost:
                LOG.warning("the record of this run is not complete: %s", error)
            self._lost = True


@contextmanager
def recorded_run(
    identity: RunIdentity, settings: Mapping[str, Any], input_hashes: Mapping[str, str], output: Path
) -> Iterator[Run]:
    """Record a run and end it as FINISHED, FAILED (exception) or KILLED (SIGTERM, Ctrl-C)."""
    fingerprint = fingerprint_of(settings, input_hashes)
    tags = process_tags() | {f"input.{name}.sha256": value for name, value in input_hashes.items()}
    tags |= {"fingerprint": fingerprint, "output": str(output.absolute())}
    cell = f"{identity.stage}-{identity.method}-seed{identity.seed}"
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{cell}-{uuid.uuid4().hex[:8]}"
    run = Run(results_dir() / identity.experiment / FOLDER / name, fingerprint)
    params = {key: str(value) for key, value in _flat(settings).items()}
    with stop_raises():
        status, started = FAILED, time.monotonic()
        try:
            run.start(identity, tags, params)
            yield run
            status = FINISHED
        except (Terminated, KeyboardInterrupt):
            status = KILLED
            raise
        finally:
            seconds = time.monotonic() - started
            run.log_metrics({"wall_seconds": seconds, "peak_memory_mib": peak_memory_mib()})
            run.end(status)


def fingerprint_of(settings: Mapping[str, Any], input_hashes: Mapping[str, str]) -> str:
    """A sha256 over a step's settings and the hashes of its inputs, without the settings that change no result."""
    kept = {name: value for name, value in _flat(settings).items() if name.split(".")[-1] not in _NEUTRAL}
    return hashlib.sha256(json.dumps([kept, dict(input_hashes)], sort_keys=True).encode()).hexdigest()


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


@dataclass
class Record:
    """What a record's file says up to `offset`: `points` are (name, value, time in ms, step), the scores among them."""

    folder: Path
    identity: RunIdentity
    started: int
    params: dict[str, str]
    tags: dict[str, str]
    points: list[tuple[str, float, int, int]] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    status: str = RUNNING
    ended: int = 0
    offset: int = 0

    @property
    def metrics(self) -> dict[str, float]:
        """The latest value of each name."""
        return {name: value for name, value, _, _ in self.points}

    def read_on(self) -> None:
        """Take in the lines that have come since; one that is half-written comes later."""
        for event in _events(self.folder, self.offset):
            self.offset = event["offset"]
            self.ended = event["time"]
            self._take(event)

    def _take(self, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "metrics" | "scores":
                new = event["values"]
                self.points += [(name, value, event["time"], event["step"]) for name, value in new.items()]
                self.scores |= new if event["event"] == "scores" else {}
            case "tags":
                self.tags |= event["tags"]
            case "file":
                self.files.append(event["name"])
            case "end":
                self.status = event["status"]


def read_record(folder: Path) -> Record | None:
    """The record of a folder; None before its first line is whole."""
    start = next(_events(folder, 0), None)
    if start is None or start["event"] != "start":
        return None
    record = Record(folder, RunIdentity(**start["identity"]), start["time"], start["params"], dict(start["tags"]))
    record.read_on()
    return record


def _events(folder: Path, offset: int) -> Iterator[dict[str, Any]]:
    """The whole lines after an offset that are JSON, each with the offset where it ends."""
    try:
        with (folder / FILE).open("rb") as stream:
            stream.seek(offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                with suppress(ValueError):  # half a line, which a full disk left
                    yield json.loads(line) | {"offset": offset}
    except FileNotFoundError:
        return


def record_folders(results: Path, experiment: str = "*") -> list[Path]:
    """The folders of all records under a results folder, or of one experiment, oldest first."""
    return sorted(
        (path for path in results.glob(f"{experiment}/{FOLDER}/*") if path.is_dir()), key=lambda one: one.name
    )
