"""Parquet files whose pages carry checksums: one flipped bit is an error and not another caption."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import whole_file
from pipeline_steps.core.foreign import PARQUET, told_by_first_bytes

Item = TypeVar("Item")
WRITTEN: dict[str, Any] = {"write_page_checksum": True}
READ: dict[str, Any] = {"page_checksum_verification": True}
# What Arrow raises for bytes that are no parquet file, or no longer.
DAMAGE = (OSError, pa.ArrowException, ValueError, KeyError, IndexError, OverflowError)


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table whole or not at all. Raises PipelineError when the disk is full."""
    with whole_file(path) as partial:
        pq.write_table(table, partial, **WRITTEN)


def read_parquet(path: Path, columns: Mapping[str, pa.DataType], remedy: str) -> pa.Table:
    """The named columns, of these types. Raises PipelineError, with `remedy`, for a file that has not all of them."""
    try:
        table = pq.read_table(path, columns=list(columns), **READ)
        return table.select(list(columns)).cast(pa.schema(columns.items()))
    except DAMAGE as error:
        raise damaged(path, error, remedy) from error


def reading(path: Path, items: Iterable[Item], remedy: str) -> Iterator[Item]:
    """The same items, read from `path` one by one. Raises PipelineError where the file is damaged in between."""
    iterator = iter(items)
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except DAMAGE as error:
            raise damaged(path, error, remedy) from error
        yield item


def damaged(path: Path, error: Exception, remedy: str) -> PipelineError:
    """The words for a parquet file that cannot be read because of `error`."""
    what = told_by_first_bytes(path) if path.is_file() else "no file"
    told = f"it is {what}" if what not in (None, PARQUET) else " ".join(str(error).split())[:500]
    return PipelineError(f"{path} cannot be read ({told}). {remedy}")
