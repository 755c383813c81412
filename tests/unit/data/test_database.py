from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.database import insert, scalar, working_database


def test_the_work_folder_is_there_while_the_block_runs_and_gone_after_it(tmp_path: Path) -> None:
    left = tmp_path / ".pairs.parquet.work" / "left by a killed run"
    left.mkdir(parents=True)
    with working_database(tmp_path / "pairs.parquet", threads=1) as database:
        assert not left.exists()
        database.execute("CREATE TABLE numbers (n BIGINT, name VARCHAR)")
        insert(database, "numbers", pa.table({"name": ["b", "a"], "n": [2, 1]}))
        assert database.sql("SELECT * FROM numbers ORDER BY n").fetchall() == [(1, "a"), (2, "b")]
        assert [path.name for path in tmp_path.iterdir()] == [".pairs.parquet.work"]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError), working_database(tmp_path / "pairs.parquet", threads=1):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "a", "two\nlines", "nul\0inside", "Übergröße 猫"])
def test_digests_are_the_first_bits_of_sha256(tmp_path: Path, text: str) -> None:
    digest = hashlib.sha256(text.encode()).digest()
    with working_database(tmp_path / "a", threads=1) as database:
        insert_text = pa.table({"text": [text]})
        database.register("given", insert_text)
        found = database.sql("SELECT digest(text), short_digest(text) FROM given").fetchall()
    assert found == [(int.from_bytes(digest[:16], "big"), int.from_bytes(digest[:8], "big"))]


def test_tables_larger_than_the_memory_are_sorted_on_disk(tmp_path: Path) -> None:
    query = "SELECT sha256(n::VARCHAR) AS place, repeat(n::VARCHAR, 40) AS ballast FROM range(800000) AS t(n)"
    with working_database(tmp_path / "a", threads=1, memory_bytes=64 * 2**20) as database:
        database.execute(f"CREATE TABLE large AS {query}")
        ordered = database.sql("SELECT place FROM large ORDER BY place, ballast").to_arrow_table()["place"].to_pylist()
        assert scalar(database, "SELECT sum(length(ballast)) FROM large") > 160 * 2**20
    assert len(ordered) == 800_000
    assert ordered == sorted(ordered)


@pytest.mark.parametrize(("threads", "memory_bytes", "used"), [(64, 2**31, 4), (3, 2**31, 3), (8, 2**27, 1)])
def test_there_are_no_more_threads_than_the_memory_has_room_for(
    tmp_path: Path, threads: int, memory_bytes: int, used: int
) -> None:
    with working_database(tmp_path / "a", threads=threads, memory_bytes=memory_bytes) as database:
        assert scalar(database, "SELECT current_setting('threads')") == used


def test_no_room_is_an_error_that_names_the_folder_and_the_remedy(tmp_path: Path) -> None:
    with (
        pytest.raises(PipelineError, match=r"work folder .*\.pairs\.parquet\.work cannot hold.*Free disk"),
        working_database(tmp_path / "pairs.parquet", threads=1, memory_bytes=16 * 2**20) as database,
    ):
        database.execute("SET max_temp_directory_size = '1MB'")
        database.sql("SELECT sha256(n::VARCHAR) AS s FROM range(2000000) AS t(n) ORDER BY s").fetchall()
    assert list(tmp_path.iterdir()) == []
