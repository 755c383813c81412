"""Tables larger than memory: a DuckDB database in a work folder beside an output, gone when the block ends."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
from duckdb import DuckDBPyConnection

from pipeline_steps.core.errors import PipelineError

MEMORY_BYTES = 2 * 2**30
# What a thread of the database holds in buffers with wide rows, found by trying: with less it runs out of memory.
_THREAD_BYTES = 2**29
# Digests are the first 128 bits of sha256 as a number, which order and tell apart texts as the whole sha256 does.
_MACROS = """
CREATE MACRO digest(text) AS ('0x' || left(sha256(text), 32))::UHUGEINT;
CREATE MACRO short_digest(text) AS ('0x' || left(sha256(text), 16))::UBIGINT;
"""


@contextmanager
def working_database(output: Path, *, threads: int, memory_bytes: int = MEMORY_BYTES) -> Iterator[DuckDBPyConnection]:
    """A database in `.<name>.work` beside `output`; what does not fit into `memory_bytes` goes to that folder.

    It has the functions of `define_functions`. What an interrupted run left there goes first. `threads` = 0 takes all
    CPUs; there are no more threads than the memory allows. Raises PipelineError for a full disk and for memory that
    does not suffice.
    """
    folder = output.with_name(f".{output.name}.work")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{memory_bytes // 2**20}MiB",
        "temp_directory": str(folder / "spill"),
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
        "threads": max(1, min(threads or os.cpu_count() or 1, memory_bytes // _THREAD_BYTES)),
    }
    try:
        with duckdb.connect(folder / "tables.duckdb", config=settings) as it:
            define_functions(it)
            yield it
    except duckdb.Error as error:
        raise PipelineError(
            f"the work folder {folder} cannot hold the tables of {output.name}: {' '.join(str(error).split())}. Free "
            "disk there (a manifest of 15 million pairs takes about 13 GiB while it is made) or memory, and run again."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def define_functions(database: DuckDBPyConnection) -> None:
    """Define digest(text) and short_digest(text), numbers of 128 and 64 bits."""
    database.execute(_MACROS)


def insert(database: DuckDBPyConnection, table: str, rows: pa.RecordBatch | pa.Table) -> None:
    """Append Arrow rows to `table`, matching columns by name."""
    database.register("incoming", rows)
    database.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")  # noqa: S608 - a name from this package
    database.unregister("incoming")


def scalar(database: DuckDBPyConnection, query: str) -> int:
    """The one number that a query gives; 0 for null."""
    rows = database.sql(query).fetchall()
    return int(rows[0][0] or 0) if rows else 0
