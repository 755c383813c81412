"""Records to one MLflow store: each run, point, tag and file once, however often this is tried or killed."""

from __future__ import annotations

import re
import socket
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import read_json, write_json
from pipeline_steps.core.process import is_alive
from pipeline_steps.core.record import FILES, FINISHED, KILLED, RUNNING, Record, Run, read_record, record_folders
from pipeline_steps.tracking import store
from pipeline_steps.tracking.store import STORE_ERRORS

_STATE = "sent.json"
_PARAM_CHARACTERS, _TAG_CHARACTERS = 6000, 8000  # the most that MLflow takes


@dataclass(frozen=True)
class Pass:
    """Counts of records: `sent` to their end in this pass, `running`, and `kept` because of `reason`."""

    sent: int
    running: int
    kept: int
    reason: str


class Sender:
    """Sends the records under a results folder. Several may run at once: each record has one at a time."""

    def __init__(self, results: Path, uri: str) -> None:
        self._results, self._uri = results.absolute(), uri
        self._client: MlflowClient | None = None
        self._records: dict[Path, Record] = {}
        self._done: set[Path] = set()
        self._sent: dict[Path, int] = {}  # the bytes of each record that the store has

    def send(self) -> Pass:
        """Send what is new. A store that does not answer is asked once, and only where there is something to send."""
        sent, kept = 0, []
        waiting = [record for record in self._read() if not self._is_done(record)]
        new = [record for record in waiting if self._sent.get(record.folder) != record.offset]
        try:
            if new:
                store.require_answer(self._uri)
        except STORE_ERRORS as error:
            return Pass(0, len(waiting) - len(new), len(new), store.in_a_line(error))
        for record in new:
            try:
                sent += self._send(record)
                self._sent[record.folder] = record.offset
            except STORE_ERRORS as error:
                kept.append(store.in_a_line(error))
        running = sum(record.status == RUNNING for record in waiting) - len(kept)
        return Pass(sent, max(0, running), len(kept), "; ".join(dict.fromkeys(kept)))

    def _read(self) -> list[Record]:
        """All records that are not done, read on; one whose process is gone is ended as KILLED."""
        for folder in record_folders(self._results):
            if folder in self._records:
                self._records[folder].read_on()
            elif folder not in self._done and (record := read_record(folder)):
                self._records[folder] = record
        latest = {record.tags["output"]: record.started for record in self._records.values()}
        for record in self._records.values():
            gone = record.tags["host"] == socket.gethostname() and not is_alive(record.tags)
            if record.status == RUNNING and (gone or record.started < latest[record.tags["output"]]):
                record.read_on()  # its end may have come meanwhile
                if record.status == RUNNING:
                    Run(record.folder, record.tags["fingerprint"]).end(KILLED)
                    record.read_on()
        return list(self._records.values())

    def _is_done(self, record: Record) -> bool:
        done = record.status != RUNNING and self._state(record).get("ended", False)
        if done:
            self._done.add(record.folder)
            del self._records[record.folder]
        return done

    def _state(self, record: Record) -> dict[str, Any]:
        """What of the record this store has."""
        path, uri = record.folder / _STATE, store.masked(self._uri)
        with suppress(PipelineError, OSError):  # one that cannot be read is as none: what is sent twice is there once
            found = read_json(path, dict[str, Any], "")
            if found.get("uri") == uri and all(isinstance(found.get(key), int) for key in ("points", "files")):
                return found
        return {"uri": uri, "points": 0, "files": 0}

    def _send(self, record: Record) -> bool:
        """Send what the store does not have of a record; whether that is now all, to its end."""
        with FileLock(self._results / ".mlflow.lock", timeout=60):
            state = self._state(record)
            if state.get("ended"):
                return False
            client = self._client = self._client or store.connect(self._uri)
            experiment_id = store.experiment_of(client, record.identity.experiment, self._uri, self._results)
            parent_id = store.parent_of(client, experiment_id, record.identity)
            run_id = state.setdefault("run_id", self._run_of(client, experiment_id, record, parent_id))
            if run_id is not None:
                self._copy(client, record, run_id, state)
                if record.status != RUNNING:
                    self._end(client, record, experiment_id, parent_id, run_id)
            ended = record.status != RUNNING or run_id is None
            new = state | {"points": len(record.points), "files": len(record.files), "ended": ended}
            write_json(record.folder / _STATE, new)
        return ended

    def _run_of(self, client: MlflowClient, experiment_id: str, record: Record, parent_id: str) -> str | None:
        """The id of the record's run, which is made where it is not there; None where somebody has deleted it."""
        found = store.search(client, experiment_id, f"tags.record = '{record.folder.name}'", ViewType.ALL)
        if found:
            return str(found[0].info.run_id) if found[0].info.lifecycle_stage == "active" else None
        tags = store.tags_of(record.identity) | {"record": record.folder.name, "mlflow.parentRunId": parent_id}
        run = client.create_run(
            experiment_id, record.started, tags | {"current": "false"}, record.identity.stage
        )  # fmt: skip
        return str(run.info.run_id)

    def _copy(self, client: MlflowClient, record: Record, run_id: str, state: dict[str, Any]) -> None:
        if not state["points"]:
            params = [
                Param(name, value[:_PARAM_CHARACTERS])
                for name, value in zip(_all_allowed(list(record.params)), record.params.values(), strict=True)
            ]
            for start in range(0, len(params), 100):
                client.log_batch(run_id, params=params[start : start + 100])
        tags = [RunTag(_allowed(name), value[:_TAG_CHARACTERS]) for name, value in record.tags.items()]
        for start in range(0, len(tags), 100):
            client.log_batch(run_id, tags=tags[start : start + 100])
        new = record.points[state["points"] :]
        points = [Metric(_allowed(name), value, moment, step) for name, value, moment, step in new]
        for start in range(0, len(points), 1000):
            client.log_batch(run_id, metrics=points[start : start + 1000])
        for name in record.files[state["files"] :]:
            folder = Path(name).parent.as_posix()
            client.log_artifact(run_id, str(record.folder / FILES / name), None if folder == "." else folder)

    def _end(self, client: MlflowClient, record: Record, experiment_id: str, parent_id: str, run_id: str) -> None:
        client.set_terminated(run_id, record.status, record.ended)
        if record.status == FINISHED:
            scores = [Metric(_allowed(name), value, record.ended, 0) for name, value in record.scores.items()]
            store.log_new(client, parent_id, scores)
            store.make_current(client, experiment_id, store.tags_of(record.identity) | record.tags)
        store.end_parent(client, experiment_id, parent_id)


def _all_allowed(names: list[str]) -> list[str]:
    """Names in the characters that MLflow allows, each still another one."""
    plain = Counter(map(_allowed, names))
    return [
        name if plain[name] == 1 else f"{name[:240]}_{sha256(own.encode()).hexdigest()[:8]}"
        for own, name in zip(names, map(_allowed, names), strict=True)
    ]


def _allowed(name: str) -> str:
    """A name in the characters that MLflow allows."""
    return re.sub(r"[^\w./ -]", "_", name)[:250]
