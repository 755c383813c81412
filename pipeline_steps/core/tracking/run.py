"""The MLflow run of a step: at the store, and where a server takes it no more, in a spool from then on."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from pipeline_steps.core.process import Terminated, peak_memory_mib, process_tags, sigterm_raises
from pipeline_steps.core.spool import Spool, results_dir
from pipeline_steps.core.tracking import store
from pipeline_steps.core.tracking.store import STORE_ERRORS, RunIdentity

LOG = logging.getLogger("pipeline_steps")
MERGE_COMMAND = "python -m pipeline_steps.merge_runs"
_FLUSH_SECONDS = 5.0
_LARGEST_ARTIFACT = 5 * 2**20
_NEUTRAL = {"workers", "save_minutes", "chunk_size"}


class _Place(NamedTuple):
    """The store where a run is now, and its ids there."""

    uri: str
    client: MlflowClient
    experiment_id: str
    parent_id: str
    run_id: str


class Run:
    """An open MLflow run. Metrics are sent in batches at most every five seconds, and all of them at the end.

    `fingerprint` is a sha256 over the step's settings and the hashes of its inputs. Whatever a server does not take
    goes to a spool of this run, as all that follows; `spool_id`, a tag here and there, says what belongs together.
    """

    def __init__(self, identity: RunIdentity, tags: Mapping[str, str], uri: str) -> None:
        self.fingerprint = tags["fingerprint"]
        self._identity = identity
        self._tags = dict(tags)
        self._params: list[Param] = []
        self._waiting: list[Metric] = []
        self._last_flush = time.monotonic()
        self._status = "RUNNING"
        self._spool: Spool | None = None
        self._uri, self._results = uri, results_dir()
        if not store.is_server(uri):
            self._at = self._open(uri)
            return
        self._tags["spool_id"] = uuid.uuid4().hex
        try:
            store.require_answer(uri)
            self._at = self._open(uri)
        except STORE_ERRORS as error:
            self._at = self._open_spool(error)

    @property
    def client(self) -> MlflowClient:
        """The client of the store where the run is now."""
        return self._at.client

    @property
    def run_id(self) -> str:
        """The run's id in that store."""
        return self._at.run_id

    def _open(self, uri: str) -> _Place:
        with store.exclusive(uri):
            client = store.connect(uri)  # the first one makes the tables
            experiment_id = store.experiment_of(client, self._identity.experiment, uri)
            store.close_dead_runs(client, experiment_id, self._tags)
            parent_id = store.parent_of(client, experiment_id, self._identity)
        tags = self._tags | {"mlflow.parentRunId": parent_id}
        run = client.create_run(experiment_id, tags=tags, run_name=self._identity.stage)
        return _Place(uri, client, experiment_id, parent_id, run.info.run_id)

    def _open_spool(self, error: Exception) -> _Place:
        self._spool = self._spool or Spool.create(self._results, self._tags["spool_id"])
        at = self._open(self._spool.uri)
        at.client.log_batch(at.run_id, params=self._params)
        if self._status != "RUNNING":
            at.client.set_terminated(at.run_id, self._status)
        self._spool.keep_for(self._uri)
        LOG.warning(
            "%s takes no runs now (%s); this one goes on in %s, and `%s --results-dir %s` merges it",
            self._uri, store.in_a_line(error), self._spool.folder, MERGE_COMMAND, shlex.quote(str(self._results)),
        )  # fmt: skip
        return at

    def _do(self, action: Callable[[], object]) -> None:
        """`action` at the store; at a server that fails, once again, and then in the spool. It may be repeated."""
        try:
            action()
            return
        except STORE_ERRORS:
            if not store.is_server(self._at.uri):
                raise
        try:
            store.require_answer(self._at.uri)
            action()
        except STORE_ERRORS as error:
            self._at = self._open_spool(error)
            action()

    def _send(self, **batch: Any) -> None:
        self._do(lambda: self.client.log_batch(self.run_id, **batch))

    def log_params(self, settings: Mapping[str, Any]) -> None:
        """Log the step's settings, by dotted names."""
        self._params = [Param(key, str(value)[:6000]) for key, value in _flat(settings).items()]
        self._send(params=self._params)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log numbers at a training step, or the final ones at step 0."""
        self._waiting += _points(metrics, step)
        if time.monotonic() - self._last_flush > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        for start in range(0, len(self._waiting), 1000):
            self._send(metrics=self._waiting[start : start + 1000])
        self._waiting = []
        self._last_flush = time.monotonic()

    def log_scores(self, scores: Mapping[str, float]) -> None:
        """Log final scores here and on the method's parent run, where methods are compared; no value twice."""
        self.log_metrics(scores)
        points = _points(scores, 0)
        self._do(lambda: store.log_new(self.client, self._at.parent_id, points))

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Store a small file with the run; one above 5 MiB stays where it is (the step tags path and sha256)."""
        if path.stat().st_size <= _LARGEST_ARTIFACT:
            self._do(lambda: self.client.log_artifact(self.run_id, str(path), folder))

    def log_text(self, text: str, name: str) -> None:
        """Store a text as a file of the run."""
        self._do(lambda: self.client.log_text(self.run_id, text, name))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags on this run."""
        self._send(tags=[RunTag(key, value) for key, value in tags.items()])

    def close(self, status: str, metrics: Mapping[str, float]) -> None:
        """Log the last metrics, end as FINISHED, FAILED or KILLED, and count if FINISHED.

        An error of the store is logged and hides no error of the step.
        """
        self._status = status
        self._waiting += _points(metrics, 0)
        for action in (
            self.flush,
            lambda: self._do(lambda: self.client.set_terminated(self.run_id, status)),
            lambda: self._do(self._end_parent),
        ):
            try:
                action()
            except STORE_ERRORS as error:
                LOG.error("the MLflow store took no more (%s); the run may stay RUNNING", store.in_a_line(error))
        try:
            if status == "FINISHED":
                self._do(self._make_current)
        finally:
            if self._spool:
                self._spool.release()

    def _end_parent(self) -> None:
        with store.exclusive(self._at.uri):
            store.end_parent(self.client, self._at.experiment_id, self._at.parent_id)

    def _make_current(self) -> None:
        with store.exclusive(self._at.uri):
            store.make_current(self.client, self._at.experiment_id, self._tags, self.run_id)


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


@contextmanager
def tracked_run(
    identity: RunIdentity, settings: Mapping[str, Any], input_hashes: Mapping[str, str], output: Path
) -> Iterator[Run]:
    """Open the step's run and close it as FINISHED, FAILED (exception) or KILLED (SIGTERM, Ctrl-C).

    Runs whose process has died are closed as KILLED first. When the run finishes it becomes the `current` one of its
    identity and output; an earlier finished run with the same settings and inputs is deleted, so that a rerun counts
    once, and one with other settings stays with `current` = false.
    """
    fingerprint = fingerprint_of(settings, input_hashes)
    tags = identity.tags() | process_tags() | {f"input.{name}.sha256": value for name, value in input_hashes.items()}
    tags |= {"fingerprint": fingerprint, "current": "false", "output": str(output.absolute())}
    uri = store.tracking_uri()
    with store.explained(uri), sigterm_raises():
        run, status, started = Run(identity, tags, uri), "FAILED", time.monotonic()
        try:
            run.log_params(settings)
            yield run
            status = "FINISHED"
        except (Terminated, KeyboardInterrupt):
            status = "KILLED"
            raise
        finally:
            seconds = time.monotonic() - started
            run.close(status, {"wall_seconds": seconds, "peak_memory_mib": peak_memory_mib()})


def _points(metrics: Mapping[str, float], step: int) -> list[Metric]:
    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step) for name, value in metrics.items()]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat
