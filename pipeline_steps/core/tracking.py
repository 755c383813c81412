"""MLflow: one run per step, under one parent run per method and seed. Only this module imports mlflow."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.entities import Run as MlflowRun

DEFAULT_URI = "sqlite:///results/mlflow.db"
_FLUSH_SECONDS = 5.0
_LARGEST_ARTIFACT = 5 * 2**20


class Terminated(BaseException):
    """SIGTERM or Ctrl-C reached a running step; its MLflow run ends as KILLED."""


@dataclass(frozen=True)
class RunIdentity:
    """Which cell of the experiment a run fills: at most one of its runs is tagged `current`."""

    experiment: str
    stage: str
    method: str
    seed: int

    def tags(self) -> dict[str, str]:
        """The identity as MLflow tags."""
        return {key: str(value) for key, value in asdict(self).items()}


class Run:
    """An open MLflow run. Metrics are sent in batches at most every five seconds, and all of them at the end.

    `fingerprint` is a sha256 over the step's settings and the hashes of its inputs.
    """

    def __init__(self, client: MlflowClient, run_id: str, parent_id: str, fingerprint: str) -> None:
        self._client = client
        self.run_id = run_id
        self.fingerprint = fingerprint
        self._parent_id = parent_id
        self._waiting: list[Metric] = []
        self._last_flush = time.monotonic()

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log numbers at a training step, or the final ones at step 0."""
        now = int(time.time() * 1000)
        self._waiting += [Metric(name, float(value), now, step) for name, value in metrics.items()]
        if time.monotonic() - self._last_flush > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        for start in range(0, len(self._waiting), 1000):
            self._client.log_batch(self.run_id, metrics=self._waiting[start : start + 1000])
        self._waiting = []
        self._last_flush = time.monotonic()

    def log_scores(self, scores: Mapping[str, float]) -> None:
        """Log final scores here and on the method's parent run, where methods are compared; no value twice."""
        self.log_metrics(scores)
        known = self._client.get_run(self._parent_id).data.metrics
        now = int(time.time() * 1000)
        new = [Metric(name, float(value), now, 0) for name, value in scores.items() if known.get(name) != value]
        if new:
            self._client.log_batch(self._parent_id, metrics=new)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Store a small file with the run; a file above 5 MiB is only named, by path and sha256, in the tags."""
        if path.stat().st_size <= _LARGEST_ARTIFACT:
            self._client.log_artifact(self.run_id, str(path), folder)

    def log_text(self, text: str, name: str) -> None:
        """Store a text as a file of the run."""
        self._client.log_text(self.run_id, text, name)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags on this run."""
        self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or SQLite under results/."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


@contextmanager
def tracked_run(identity: RunIdentity, settings: Mapping[str, Any], input_hashes: Mapping[str, str]) -> Iterator[Run]:
    """Open the step's run and close it as FINISHED, FAILED (exception) or KILLED (SIGTERM, Ctrl-C).

    Runs of this machine whose process has died are closed as KILLED first. When the run finishes it becomes the
    `current` one of its identity; an earlier finished run with the same settings and inputs is deleted, so that a
    rerun counts once, and one with other settings stays with `current` = false.
    """
    uri = tracking_uri()
    with _store_lock(uri):
        client = MlflowClient(uri)
        experiment_id = _experiment(client, identity.experiment, uri)
        close_dead_runs(client, experiment_id, identity)
        parent_id = _parent(client, experiment_id, identity)
    fingerprint = hashlib.sha256(json.dumps([settings, dict(input_hashes)], sort_keys=True).encode()).hexdigest()
    tags = identity.tags() | _process_tags() | {f"input.{name}.sha256": value for name, value in input_hashes.items()}
    tags |= {"mlflow.parentRunId": parent_id, "fingerprint": fingerprint, "current": "false"}
    run_id = client.create_run(experiment_id, tags=tags, run_name=identity.stage).info.run_id
    client.log_batch(run_id, params=[Param(key, str(value)[:6000]) for key, value in _flat(settings).items()])
    run, status, started = Run(client, run_id, parent_id, fingerprint), "FAILED", time.monotonic()
    try:
        with _sigterm_raises():
            yield run
        status = "FINISHED"
    except (Terminated, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        run.log_metrics({"wall_seconds": time.monotonic() - started, "peak_memory_mib": _peak_memory_mib()})
        run.flush()
        client.set_terminated(run_id, status)
        client.set_terminated(parent_id, status)
        if status == "FINISHED":
            _make_current(client, experiment_id, identity, run_id, fingerprint)


def close_dead_runs(client: MlflowClient, experiment_id: str, identity: RunIdentity | None = None) -> int:
    """End as KILLED the RUNNING runs whose process is gone from this machine, and those of `identity`.

    The caller holds the lock of `identity`'s output, so an open run of that identity has no process any more, on
    whichever machine it was. Returns how many were closed.
    """
    closed = 0
    for found in _search(client, experiment_id, "attributes.status = 'RUNNING'"):
        tags = found.data.tags
        same = identity is not None and all(tags.get(key) == value for key, value in identity.tags().items())
        if same or (tags.get("host") == socket.gethostname() and not _alive(tags)):
            client.set_terminated(found.info.run_id, "KILLED")
            closed += 1
    return closed


def _make_current(
    client: MlflowClient, experiment_id: str, identity: RunIdentity, run_id: str, fingerprint: str
) -> None:
    query = " and ".join(f"tags.{key} = '{value}'" for key, value in identity.tags().items())
    for found in _search(client, experiment_id, query):
        older_id, tags = found.info.run_id, found.data.tags
        if older_id == run_id or tags.get("parent") == "true":
            continue
        if found.info.status == "FINISHED" and tags.get("fingerprint") == fingerprint:
            client.delete_run(older_id)
        elif tags.get("current") == "true":
            client.set_tag(older_id, "current", "false")
    client.set_tag(run_id, "current", "true")


def _search(client: MlflowClient, experiment_id: str, query: str) -> list[MlflowRun]:
    found: list[MlflowRun] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], query, ViewType.ACTIVE_ONLY, 1000, page_token=token)
        found += list(page)
        token = page.token
        if not token:
            return found


def _experiment(client: MlflowClient, name: str, uri: str) -> str:
    known = client.get_experiment_by_name(name)
    if known is not None:
        return str(known.experiment_id)
    database = _sqlite_file(uri)
    location = (database.parent / "mlartifacts" / name).absolute().as_uri() if database else None
    return str(client.create_experiment(name, artifact_location=location))


def _parent(client: MlflowClient, experiment_id: str, identity: RunIdentity) -> str:
    query = f"tags.parent = 'true' and tags.method = '{identity.method}' and tags.seed = '{identity.seed}'"
    found = _search(client, experiment_id, query)
    if found:
        return str(found[0].info.run_id)
    tags = {key: value for key, value in identity.tags().items() if key != "stage"} | {"parent": "true"}
    run = client.create_run(experiment_id, tags=tags, run_name=f"{identity.method} seed {identity.seed}")
    client.set_terminated(run.info.run_id, "FINISHED")
    return str(run.info.run_id)


@contextmanager
def _store_lock(uri: str) -> Iterator[None]:
    database = _sqlite_file(uri)
    folder = database.parent if database else Path("results")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".mlflow.lock", timeout=300):
        yield


def _sqlite_file(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    def handler(number: int, _frame: FrameType | None) -> None:
        raise Terminated(f"signal {number}")

    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _process_tags() -> dict[str, str]:
    process = psutil.Process()
    tags = {"host": socket.gethostname(), "pid": str(process.pid), "process_start": f"{process.create_time():.2f}"}
    git = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40"], capture_output=True, text=True)
    return tags | {"git_commit": git.stdout.strip() or "unknown"}


def _alive(tags: Mapping[str, str]) -> bool:
    try:
        process = psutil.Process(int(tags.get("pid", "-1")))
        return f"{process.create_time():.2f}" == tags.get("process_start")
    except (psutil.NoSuchProcess, ValueError):
        return False


def _peak_memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def main(experiment: str) -> None:
    """Close the runs of an experiment whose process is gone; Snakemake calls this after a failed workflow."""
    client = MlflowClient(tracking_uri())
    known = client.get_experiment_by_name(experiment)
    if known is not None:
        close_dead_runs(client, known.experiment_id)


if __name__ == "__main__":
    main(sys.argv[1])
