"""One MLflow store, SQLite, PostgreSQL or a server: who may change it now, its experiments, parents and cells."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from sqlalchemy.exc import SQLAlchemyError

from pipeline_steps.core.record import FAILED, FINISHED, KILLED, RunIdentity

# What a store raises that cannot be reached, has no driver here or takes no more; HTTP's errors are OSErrors.
STORE_ERRORS = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError)
# MLflow's own patience is minutes per request. The sender repeats what failed, which doubles nothing.
_CLIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_CONNECT_SECONDS, _ANSWER_SECONDS = 3, 10


def is_server(uri: str) -> bool:
    """Whether a URI is that of an MLflow server."""
    return uri.startswith(("http://", "https://"))


def connect(uri: str) -> MlflowClient:
    """A client of a store. That of a server gives up soon, but for a patience that the environment sets."""
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a store's error is told in one line here
    if is_server(uri):
        for name, value in _CLIENT.items():
            os.environ.setdefault(name, value)
    database = _sqlite_file(uri)
    if database and database.is_dir():  # MLflow would try for minutes
        raise IsADirectoryError(f"{database} is a folder")
    if database and not database.exists():  # made beside and renamed: one that is half-made would be refused for ever
        database.parent.mkdir(parents=True, exist_ok=True)
        partial = database.with_name(f".{database.name}.partial")
        partial.unlink(missing_ok=True)
        MlflowClient(f"sqlite:///{partial}").search_experiments(max_results=1)
        partial.replace(database)
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
    """The first line of what a store says; of a request that failed, the cause. Passwords are not in it."""
    return masked((str(error).splitlines() or [type(error).__name__])[0].rpartition("(Caused by ")[2][:300])


def masked(text: str) -> str:
    """A text whose URIs have no passwords any more."""
    return re.sub(r"(://[^\s/@:]*):[^\s/@]*@", r"\1:***@", text)


def experiment_of(client: MlflowClient, name: str, uri: str, results: Path) -> str:
    """The id of an experiment, which is made where it is not there. The caller holds the lock.

    Without a server its files go beside the database, or under `results` where that is no file.
    """
    known = client.get_experiment_by_name(name)
    database = _sqlite_file(uri)
    folder = database.parent if database else results
    location = None if is_server(uri) else (folder / "mlartifacts" / name).absolute().as_uri()
    if known is not None and known.lifecycle_stage != "active":
        raise MlflowException(
            f"the experiment {name!r} was deleted in MLflow; `mlflow experiments restore -x {known.experiment_id}` "
            "brings it back, and another `experiment` in the configuration makes another"
        )
    if known is not None:
        if database and location and known.artifact_location != location:
            _bring_along(database, known, location)
        return str(known.experiment_id)
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException:  # another results folder has another lock
        known = client.get_experiment_by_name(name)
        if known is None:
            raise
        return str(known.experiment_id)


def _bring_along(database: Path, known: Experiment, location: str) -> None:
    """Of a store that came here by a copy or a move with its results: its files are those that came with it."""
    before = str(known.artifact_location)
    if not before.endswith(f"/mlartifacts/{quote(known.name)}"):
        return  # somebody put them elsewhere on purpose
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
            "WHERE experiment_id = ? AND instr(artifact_uri, ?) = 1",
            (f"{location}/", len(before) + 2, known.experiment_id, f"{before}/"),
        )
        connection.execute(
            "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (location, known.experiment_id)
        )


def tags_of(identity: RunIdentity) -> dict[str, str]:
    """The identity as MLflow tags."""
    return {key: str(value) for key, value in asdict(identity).items()}


def parent_of(client: MlflowClient, experiment_id: str, identity: RunIdentity) -> str:
    """The id of a method's and seed's parent run, which is made where it is not there. The caller holds the lock."""
    query = f"tags.parent = 'true' and tags.method = '{identity.method}' and tags.seed = '{identity.seed}'"
    found = search(client, experiment_id, query)
    if found:
        return str(found[0].info.run_id)
    tags = {key: value for key, value in tags_of(identity).items() if key != "stage"} | {"parent": "true"}
    run = client.create_run(experiment_id, tags=tags, run_name=f"{identity.method} seed {identity.seed}")
    client.set_terminated(run.info.run_id, FINISHED)
    return str(run.info.run_id)


def end_parent(client: MlflowClient, experiment_id: str, parent_id: str) -> None:
    """FAILED when the latest run of any stage under the parent did not finish, else FINISHED."""
    latest: dict[str, str] = {}
    for found in search(client, experiment_id, f"tags.mlflow.parentRunId = '{parent_id}'"):
        latest.setdefault(found.data.tags["stage"], found.info.status)
    failed = any(status in (FAILED, KILLED) for status in latest.values())
    client.set_terminated(parent_id, FAILED if failed else FINISHED)


def make_current(client: MlflowClient, experiment_id: str, own: Mapping[str, str]) -> None:
    """Tag the run that ended last as the one that counts of its stage, method, seed and output, which `own` has.

    The others stay, as `current: false`. Nothing happens where none finished.
    """
    query = " and ".join(f"tags.{key} = '{own[key]}'" for key in ("stage", "method", "seed"))
    cell = [found for found in search(client, experiment_id, query) if found.data.tags.get("output") == own["output"]]
    finished = [found for found in cell if found.info.status == FINISHED]
    if not finished:
        return
    chosen = max(finished, key=lambda found: found.info.end_time or 0)
    for found in cell:
        if found.info.run_id != chosen.info.run_id and found.data.tags.get("current") == "true":
            client.set_tag(found.info.run_id, "current", "false")
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


def _sqlite_file(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
