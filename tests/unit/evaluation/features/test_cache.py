from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.evaluation.features.cache import FeatureCache, GrowingFile, key_of

KEY = key_of(what="projected", content="c", checkpoint="k")
ROWS = np.random.default_rng(0).normal(size=(1000, 7)).astype(np.float32)


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "features")


def _files(cache: FeatureCache) -> list[str]:
    return sorted(path.name for path in cache.folder.rglob("*") if path.is_file() and path.name != ".lock")


def test_a_matrix_in_parts_is_the_whole_one_and_the_library_reads_it(cache: FeatureCache) -> None:
    with cache.growing(KEY, 1000) as growing:
        for start in range(0, 1000, 300):
            assert cache.find(KEY) is None
            growing.append(ROWS[start : start + 300])
    assert growing.done() == cache.find(KEY)
    assert np.array_equal(load_file(cache.path(KEY))["rows"], ROWS)
    assert cache.store(KEY, ROWS + 1) == growing.done()
    numbers = np.arange(5)
    key = key_of(what="indices")
    cache.store(key, numbers)
    assert np.array_equal(load_file(cache.path(key))["rows"], numbers)


def test_keys_differ_with_every_part() -> None:
    keys = {key_of(a="1", b="2"), key_of(a="2", b="1"), key_of(a="12", b=""), key_of(a="1", c="2"), key_of(a="1")}
    assert len(keys) == 5
    assert key_of(a="1", b="2") == key_of(b="2", a="1")


def test_what_was_not_finished_is_not_there(cache: FeatureCache) -> None:
    with pytest.raises(ValueError, match="400 of 1000 rows"), cache.growing(KEY, 1000) as growing:
        growing.append(ROWS[:400])
    with pytest.raises(RuntimeError, match="stop"), cache.growing(KEY, 1000) as growing:
        growing.append(ROWS)
        raise RuntimeError("stop")
    with pytest.raises(ValueError, match="does not go into 1000 rows"), cache.growing(KEY, 1000) as growing:
        growing.append(ROWS[:4])
        growing.append(ROWS[:4, :3])
    assert _files(cache) == []


@pytest.mark.parametrize("damage", ["torn", "changed", "empty", "foreign"])
def test_a_damaged_file_counts_as_missing_and_is_made_again(cache: FeatureCache, damage: str) -> None:
    entry = cache.store(KEY, ROWS)
    path = cache.path(KEY)
    content = path.read_bytes()
    if damage == "foreign":
        save_file({"rows": ROWS}, path)
    else:
        changed = content[:-1] + bytes([content[-1] ^ 1])
        path.write_bytes({"torn": content[:500], "changed": changed, "empty": b""}[damage])
    assert cache.find(KEY) is None
    assert cache.store(KEY, ROWS) == entry
    assert path.read_bytes() == content


def test_the_first_of_two_writers_of_one_file_stays(cache: FeatureCache) -> None:
    with cache.growing(KEY, 1000) as late:
        late.append(ROWS + 1)
        early = cache.store(KEY, ROWS)
    assert late.done() == early == cache.find(KEY)
    assert np.array_equal(load_file(cache.path(KEY))["rows"], ROWS)
    assert _files(cache) == [f"{KEY}.safetensors"]


def _half_written(folder: Path, ready: Connection) -> None:
    with FeatureCache(folder).growing(KEY, 1000) as growing:
        growing.append(ROWS[:500])
        ready.send("half")
        time.sleep(60)


def test_what_a_killed_job_left_goes_and_what_a_living_one_writes_stays(cache: FeatureCache) -> None:
    forked = multiprocessing.get_context("fork")
    here, there = forked.Pipe()
    job = forked.Process(target=_half_written, args=(cache.folder, there))
    job.start()
    assert here.recv() == "half"
    assert cache.remove_torn() == 0
    assert len(_files(cache)) == 1
    assert job.pid is not None
    os.kill(job.pid, signal.SIGKILL)
    job.join(30)
    assert cache.remove_torn() == 1
    assert _files(cache) == []


def test_a_full_disk_is_said_and_leaves_nothing(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: GrowingFile) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(GrowingFile, "finish", full)
    with pytest.raises(PipelineError, match=r"no room to write .*safetensors.*free some space"):
        cache.store(KEY, ROWS)
    assert _files(cache) == []
