"""What jobs spooled goes to its server: each run, point, tag and file once, however often this is tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag, ViewType

from pipeline_steps.core.spool import Spool, held, spool_folders
from pipeline_steps.core.tracking import store
from pipeline_steps.core.tracking.store import STORE_ERRORS, RunIdentity


@dataclass(frozen=True)
class Merged:
    """Counts of spools: merged now, of steps that still run, and kept because a server took them not, with why."""

    merged: int
    running: int
    kept: int
    reason: str


def merge_spools(results: Path, server_uri: str | None = None) -> Merged:
    """Merge every spool under a results folder into its server, or into `server_uri`, and remove it.

    May be killed at any moment and run again, and by several processes at once: a spool has one holder. A server that
    does not answer is asked once.
    """
    merged, running = 0, 0
    kept: list[str] = []
    away: dict[str, str] = {}
    for folder in spool_folders(results):
        with held(folder) as spool:
            if spool is None:
                running += folder.is_dir()
                continue
            uri = spool.server_uri and (server_uri or spool.server_uri)
            reason = _why_not_merged(spool, uri, away) if uri else None
            if reason:
                kept.append(reason)
                continue
            merged += uri is not None
            spool.remove()
    return Merged(merged, running, len(kept), "; ".join(dict.fromkeys(kept)))


def _why_not_merged(spool: Spool, uri: str, away: dict[str, str]) -> str | None:
    """Merge a spool; None, or what the store says. `away` has the servers that do not answer, with what is said."""
    if uri in away:
        return away[uri]
    try:
        store.require_answer(uri)
    except STORE_ERRORS as error:
        away[uri] = store.in_a_line(error)
        return away[uri]
    try:
        _merge(spool, uri)
    except STORE_ERRORS as error:
        return f"{spool.folder}: {store.in_a_line(error)}"
    return None


def close_dead(experiment: str) -> str | None:
    """Close the runs of an experiment whose process is gone from this machine. Returns why the store let it not."""
    uri = store.tracking_uri()
    try:
        store.require_answer(uri)
        client = store.connect(uri)
        known = client.get_experiment_by_name(experiment)
        if known is not None:
            store.close_dead_runs(client, known.experiment_id)
    except STORE_ERRORS as error:
        return store.in_a_line(error)
    return None


def _merge(spool: Spool, uri: str) -> None:
    source, target = store.connect(spool.uri), store.connect(uri)
    spooled = [
        run
        for experiment in source.search_experiments()
        for run in store.search(source, experiment.experiment_id, "tags.spool_id != ''")
    ]
    run, tags = spooled[0], spooled[0].data.tags  # the latest: a signal may have ended an earlier attempt to open it
    identity = RunIdentity(tags["experiment"], tags["stage"], tags["method"], int(tags["seed"]))
    with store.exclusive(uri):
        experiment_id = store.experiment_of(target, identity.experiment, uri)
        parent_id = store.parent_of(target, experiment_id, identity)
        run_id = _counterpart(target, experiment_id, run, parent_id)
    if run_id is None:
        return
    _copy(source, target, run, run_id)
    files = spool.folder / "mlartifacts" / identity.experiment / run.info.run_id / "artifacts"
    if files.is_dir():
        target.log_artifacts(run_id, str(files))
    scores = _history(source, source.get_run(tags["mlflow.parentRunId"]))
    with store.exclusive(uri):
        ended = "KILLED" if run.info.status == "RUNNING" else run.info.status  # its step is gone: we hold the spool
        target.set_terminated(run_id, ended, run.info.end_time)
        store.log_new(target, parent_id, scores)
        store.make_current(target, experiment_id, tags)
        store.end_parent(target, experiment_id, parent_id)


def _counterpart(target: MlflowClient, experiment_id: str, run: Run, parent_id: str) -> str | None:
    """The id of the server's run that a spool goes on with; a new one where there is none; None where it was deleted.

    Deleted is what a later run with the same settings has replaced.
    """
    spool_id = run.data.tags["spool_id"]
    found = store.search(target, experiment_id, f"tags.spool_id = '{spool_id}'", ViewType.ALL)
    if found:
        return str(found[0].info.run_id) if found[0].info.lifecycle_stage == "active" else None
    own = _own_tags(run) | {"mlflow.parentRunId": parent_id, "current": "false"}
    created = target.create_run(experiment_id, run.info.start_time, own, run.info.run_name)
    return str(created.info.run_id)


def _copy(source: MlflowClient, target: MlflowClient, run: Run, run_id: str) -> None:
    """Params, tags and every point. A store keeps what is sent twice once."""
    params = [Param(key, value) for key, value in run.data.params.items()]
    tags = [RunTag(key, value) for key, value in _own_tags(run).items()]
    points = _history(source, run)
    for start in range(0, len(params), 100):
        target.log_batch(run_id, params=params[start : start + 100])
    for start in range(0, len(tags), 100):
        target.log_batch(run_id, tags=tags[start : start + 100])
    for start in range(0, len(points), 1000):
        target.log_batch(run_id, metrics=points[start : start + 1000])


def _own_tags(run: Run) -> dict[str, str]:
    return {key: value for key, value in run.data.tags.items() if key != "current" and not key.startswith("mlflow.")}


def _history(source: MlflowClient, run: Run) -> Sequence[Metric]:
    return [
        Metric(point.key, point.value, point.timestamp, point.step)
        for key in run.data.metrics
        for point in source.get_metric_history(run.info.run_id, key)
    ]
