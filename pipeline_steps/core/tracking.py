"""MLflow: one run per step, under one parent run per method and seed. Only this module imports mlflow."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException

from pipeline_steps.core.process import Terminated, is_alive, peak_memory_mib, process_tags, sigterm_raises

LOG = logging.getLogger("pipeline_steps")
DEFAULT_URI = "sqlite:///results/mlflow.db"
_FLUSH_SECONDS = 5.0
_LARGEST_ARTIFACT = 5 * 2**20
_NEUTRAL = {"workers", "save_minutes", "chunk_size"}


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
        self.client = client
        self.run_id = run_id
        self.parent_id = parent_id
        self.fingerprint = fingerprint
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
            self.client.log_batch(self.run_id, metrics=self._waiting[start : start + 1000])
        self._waiting = []
        self._last_flush = time.monotonic()

    def log_scores(self, scores: Mapping[str, float]) -> None:
        """Log final scores here and on the method's parent run, where methods are compared; no value twice."""
        self.log_metrics(scores)
        known = self.client.get_run(self.parent_id).data.metrics
        now = int(time.time() * 1000)
        new = [Metric(name, float(value), now, 0) for name, value in scores.items() if known.get(name) != value]
        if new:
            self.client.log_batch(self.parent_id, metrics=new)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Store a small file with the run; one above 5 MiB stays where it is (the step tags path and sha256)."""
        if path.stat().st_size <= _LARGEST_ARTIFACT:
            self.client.log_artifact(self.run_id, str(path), folder)

    def log_text(self, text: str, name: str) -> None:
        """Store a text as a file of the run."""
        self.client.log_text(self.run_id, text, name)

    def end(self, status: str) -> None:
        """Set the final status: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(self.run_id, status)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags on this run."""
        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])


class SilentRun(Run):
    """The run of a process that does not lead: the same fingerprint, and nothing is sent."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Nothing."""

    def log_scores(self, scores: Mapping[str, float]) -> None:
        """Nothing."""

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Nothing."""

    def log_text(self, text: str, name: str) -> None:
        """Nothing."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Nothing."""


def fingerprint_of(settings: Mapping[str, Any], input_hashes: Mapping[str, str]) -> str:
    """A sha256 over a step's settings and the hashes of its inputs, without the settings that change no result."""
    kept = {name: value for name, value in _flat(settings).items() if name.split(".")[-1] not in _NEUTRAL}
    return hashlib.sha256(json.dumps([kept, dict(input_hashes)], sort_keys=True).encode()).hexdigest()


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or SQLite under results/."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


@contextmanager
def tracked_run(
    identity: RunIdentity, settings: Mapping[str, Any], input_hashes: Mapping[str, str], output: Path
) -> Iterator[Run]:
    """Open the step's run and close it as FINISHED, FAILED (exception) or KILLED (SIGTERM, Ctrl-C).

    Runs whose process has died are closed as KILLED first. When the run finishes it becomes the `current` one of its
    identity and output; an earlier finished run with the same settings and inputs is deleted, so that a rerun counts
    once, and one with other settings stays with `current` = false.
    """
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a store's error is told in one line here
    uri = tracking_uri()
    fingerprint = fingerprint_of(settings, input_hashes)
    tags = identity.tags() | process_tags() | {f"input.{name}.sha256": value for name, value in input_hashes.items()}
    tags |= {"fingerprint": fingerprint, "current": "false", "output": str(output.absolute())}
    with sigterm_raises():
        with _store_lock(uri):
            client = MlflowClient(uri)
            experiment_id = _experiment(client, identity.experiment, uri)
            close_dead_runs(client, experiment_id, tags)
            parent_id = _parent(client, experiment_id, identity)
        tags |= {"mlflow.parentRunId": parent_id}
        run_id = client.create_run(experiment_id, tags=tags, run_name=identity.stage).info.run_id
        run, status, started = Run(client, run_id, parent_id, fingerprint), "FAILED", time.monotonic()
        try:
            params = [Param(key, str(value)[:6000]) for key, value in _flat(settings).items()]
            client.log_batch(run_id, params=params)
            yield run
            status = "FINISHED"
        except (Terminated, KeyboardInterrupt):
            status = "KILLED"
            raise
        finally:
            run.log_metrics({"wall_seconds": time.monotonic() - started, "peak_memory_mib": peak_memory_mib()})
            _close(run, status, uri)
            if status == "FINISHED":
                _make_current(client, experiment_id, tags, run_id)


def _close(run: Run, status: str, uri: str) -> None:
    """End the run and set its parent's status; an error of the store is logged and hides no error of the step."""
    for action in (run.flush, lambda: run.end(status), lambda: _end_parent(run, uri)):
        try:
            action()
        except (MlflowException, OSError) as error:
            LOG.error("the MLflow store took no more (%s); the run may stay RUNNING", str(error).splitlines()[0])


def _end_parent(run: Run, uri: str) -> None:
    """FAILED when the latest run of any stage under the parent did not finish, else FINISHED."""
    with _store_lock(uri):
        client = run.client
        experiment_id = client.get_run(run.parent_id).info.experiment_id
        latest: dict[str, str] = {}
        for found in _search(client, experiment_id, f"tags.mlflow.parentRunId = '{run.parent_id}'"):
            latest.setdefault(found.data.tags["stage"], found.info.status)
        failed = any(status in ("FAILED", "KILLED") for status in latest.values())
        client.set_terminated(run.parent_id, "FAILED" if failed else "FINISHED")


def close_dead_runs(client: MlflowClient, experiment_id: str, own: Mapping[str, str] | None = None) -> int:
    """End as KILLED the RUNNING runs whose process is gone from this machine, and those of the output `own`.

    The caller holds the lock of its output, so an open run of that output has no process any more, on whichever
    machine it was. Returns how many were closed.
    """
    closed = 0
    for found in _search(client, experiment_id, "attributes.status = 'RUNNING'"):
        tags = found.data.tags
        same = own is not None and _same_cell(tags, own)
        if same or (tags.get("host") == socket.gethostname() and not is_alive(tags)):
            client.set_terminated(found.info.run_id, "KILLED")
            closed += 1
    return closed


def _same_cell(tags: Mapping[str, str], own: Mapping[str, str]) -> bool:
    return all(tags.get(key) == own[key] for key in ("stage", "method", "seed", "output"))


def _make_current(client: MlflowClient, experiment_id: str, own: Mapping[str, str], run_id: str) -> None:
    query = " and ".join(f"tags.{key} = '{own[key]}'" for key in ("stage", "method", "seed"))
    for found in _search(client, experiment_id, query):
        older_id, tags = found.info.run_id, found.data.tags
        if older_id == run_id or not _same_cell(tags, own):
            continue
        if found.info.status == "FINISHED" and tags.get("fingerprint") == own["fingerprint"]:
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
