"""One MLflow store, SQLite, PostgreSQL or a server: who may change it now, its experiments, parents and cells."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from sqlalchemy.exc import SQLAlchemyError

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.process import is_alive
from pipeline_steps.core.spool import results_dir

DEFAULT_URI = "sqlite:///results/mlflow.db"
# What a store raises that cannot be reached or takes no more; the errors of HTTP among them are OSErrors.
STORE_ERRORS = (MlflowException, OSError)
# MLflow's own patience is minutes per request. Requests are repeated in run.py, where that doubles nothing.
_CLIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_CONNECT_SECONDS, _ANSWER_SECONDS = 3, 10


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


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or SQLite under results/."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def is_server(uri: str) -> bool:
    """Whether a URI is that of an MLflow server."""
    return uri.startswith(("http://", "https://"))


def is_there(uri: str) -> bool:
    """Whether a store of SQLite has been made; others are taken to be there."""
    database = _sqlite_file(uri)
    return database is None or database.is_file()


def connect(uri: str) -> MlflowClient:
    """A client of a store. That of a server gives up soon, but for a patience that the environment sets."""
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a store's error is told in one line here
    if is_server(uri):
        for name, value in _CLIENT.items():
            os.environ.setdefault(name, value)
    return MlflowClient(uri)


def require_answer(uri: str) -> None:
    """Raise MlflowException, within seconds, where a server does not answer. Other stores are not asked."""
    if not is_server(uri):
        return
    credentials = get_default_host_creds(uri)  # type: ignore[no-untyped-call]
    answer = http_request(  # type: ignore[no-untyped-call]
        credentials, "/health", "GET", max_retries=1, backoff_factor=1, raise_on_status=False,
        timeout=(_CONNECT_SECONDS, _ANSWER_SECONDS),
    )  # fmt: skip
    if answer.status_code >= 500:
        raise MlflowException(f"{uri}/health answered {answer.status_code}")


def in_a_line(error: Exception) -> str:
    """The first line of what a store says; of a request that failed, the cause."""
    return (str(error).splitlines() or [type(error).__name__])[0].rpartition("(Caused by ")[2][:300]


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Raise PipelineError, with the remedies, where the block ends because the store does not take a run."""
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:  # the latter while its tables are made
        raise PipelineError(
            f"the MLflow store {uri} does not take this run: {in_a_line(error)}. Where its disk is full, free some "
            "space; else see that it can be written and that no other version of MLflow made it (`mlflow db upgrade`). "
            "Another store is set by `tracking.uri`."
        ) from error


@contextmanager
def exclusive(uri: str) -> Iterator[None]:
    """Keep every other process out that shares the store's folder, or for a server the results folder."""
    database = _sqlite_file(uri)
    folder = database.parent if database else results_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".mlflow.lock", timeout=300):
        require_answer(uri)
        yield


def experiment_of(client: MlflowClient, name: str, uri: str) -> str:
    """The id of an experiment, which is made where it is not there. The caller holds the lock."""
    known = client.get_experiment_by_name(name)
    if known is not None:
        return str(known.experiment_id)
    database = _sqlite_file(uri)
    folder = database.parent if database else results_dir()
    location = None if is_server(uri) else (folder / "mlartifacts" / name).absolute().as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException:  # another results folder has another lock
        known = client.get_experiment_by_name(name)
        if known is None:
            raise
        return str(known.experiment_id)


def parent_of(client: MlflowClient, experiment_id: str, identity: RunIdentity) -> str:
    """The id of a method's and seed's parent run, which is made where it is not there. The caller holds the lock."""
    query = f"tags.parent = 'true' and tags.method = '{identity.method}' and tags.seed = '{identity.seed}'"
    found = search(client, experiment_id, query)
    if found:
        return str(found[0].info.run_id)
    tags = {key: value for key, value in identity.tags().items() if key != "stage"} | {"parent": "true"}
    run = client.create_run(experiment_id, tags=tags, run_name=f"{identity.method} seed {identity.seed}")
    client.set_terminated(run.info.run_id, "FINISHED")
    return str(run.info.run_id)


def end_parent(client: MlflowClient, experiment_id: str, parent_id: str) -> None:
    """FAILED when the latest run of any stage under the parent did not finish, else FINISHED."""
    latest: dict[str, str] = {}
    for found in search(client, experiment_id, f"tags.mlflow.parentRunId = '{parent_id}'"):
        latest.setdefault(found.data.tags["stage"], found.info.status)
    failed = any(status in ("FAILED", "KILLED") for status in latest.values())
    client.set_terminated(parent_id, "FAILED" if failed else "FINISHED")


def close_dead_runs(client: MlflowClient, experiment_id: str, own: Mapping[str, str] | None = None) -> int:
    """End as KILLED the RUNNING runs whose process is gone from this machine, and those of the output `own`.

    The caller holds the lock of its output, so an open run of that output has no process any more, on whichever
    machine it was. Returns how many were closed.
    """
    closed = 0
    for found in search(client, experiment_id, "attributes.status = 'RUNNING'"):
        tags = found.data.tags
        same = own is not None and _same_cell(tags, own)
        if same or (tags.get("host") == socket.gethostname() and not is_alive(tags)):
            client.set_terminated(found.info.run_id, "KILLED")
            closed += 1
    return closed


def make_current(client: MlflowClient, experiment_id: str, own: Mapping[str, str], run_id: str | None = None) -> None:
    """Tag `run_id`, or without one the run that ended last, as the one that counts of its identity and output `own`.

    Of the other finished runs those with the same settings and inputs are deleted. Nothing happens where none finished.
    """
    query = " and ".join(f"tags.{key} = '{own[key]}'" for key in ("stage", "method", "seed"))
    cell = [found for found in search(client, experiment_id, query) if _same_cell(found.data.tags, own)]
    finished = [found for found in cell if found.info.status == "FINISHED"]
    candidates = [found for found in cell if found.info.run_id == run_id] if run_id else finished
    if not candidates:
        return
    chosen = max(candidates, key=lambda found: found.info.end_time or 0)
    for found in cell:
        older_id, tags = found.info.run_id, found.data.tags
        if older_id == chosen.info.run_id:
            continue
        if found.info.status == "FINISHED" and tags.get("fingerprint") == chosen.data.tags["fingerprint"]:
            client.delete_run(older_id)
        elif tags.get("current") == "true":
            client.set_tag(older_id, "current", "false")
    client.set_tag(chosen.info.run_id, "current", "true")


def log_new(client: MlflowClient, run_id: str, points: Sequence[Metric]) -> None:
    """Log points to a run, without those whose value is the one that the run already has."""
    known = client.get_run(run_id).data.metrics
    new = [point for point in points if known.get(point.key) != point.value]
    for start in range(0, len(new), 1000):
        client.log_batch(run_id, metrics=new[start : start + 1000])


def search(client: MlflowClient, experiment_id: str, query: str, view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    """All runs that a query of MLflow finds, the latest first."""
    found: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], query, view, 1000, page_token=token)
        found += list(page)
        token = page.token
        if not token:
            return found


def _same_cell(tags: Mapping[str, str], own: Mapping[str, str]) -> bool:
    return all(tags.get(key) == own[key] for key in ("stage", "method", "seed", "output"))


def _sqlite_file(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
