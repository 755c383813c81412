"""Text columns out of a user's CSV, TSV or parquet file, with errors that say what the file does have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pipeline_steps.core.errors import PipelineError

_BLOCK_BYTES = 16 * 2**20


def read_text_columns(path: Path, columns: Mapping[str, str]) -> pa.Table:
    """The columns named by the values of `columns` as text, in that order; no value is null.

    The keys of `columns` are the config keys that name the columns, for the error. The ending of `path` (before
    `.gz`) says what it is: `.parquet`; `.tsv`, tab-separated without quoting, as CC3M and CC12M come; everything
    else is comma-separated with double quotes. Text is UTF-8 and the first line names the columns. Raises
    PipelineError for a missing file, another format and missing columns (naming the ones there are).
    """
    if not path.is_file():
        raise PipelineError(f"{path} does not exist or is not a file; give the path of a CSV, TSV or parquet file")
    with _readable(path):
        if path.suffix == ".parquet":
            _require_columns(path, columns, pq.read_schema(path).names)
            table = pq.read_table(path, columns=list(columns.values()))
        else:
            _require_columns(path, columns, _csv_header(path))
            table = _read_csv(path, list(columns.values()))
        texts = [pc.fill_null(table[name].cast(pa.string()), "") for name in columns.values()]
        return pa.table(texts, names=list(columns.values()))


def _csv_header(path: Path) -> list[str]:
    with pa_csv.open_csv(path, parse_options=_parsing(path), read_options=_reading()) as reader:
        return list(reader.schema.names)


def _read_csv(path: Path, names: list[str]) -> pa.Table:
    types = pa_csv.ConvertOptions(
        include_columns=names, column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
    )
    return pa_csv.read_csv(path, parse_options=_parsing(path), read_options=_reading(), convert_options=types)


def _parsing(path: Path) -> pa_csv.ParseOptions:
    if ".tsv" in path.suffixes:
        return pa_csv.ParseOptions(delimiter="\t", quote_char=False)
    return pa_csv.ParseOptions(newlines_in_values=True)


def _reading() -> pa_csv.ReadOptions:
    return pa_csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES)


def _require_columns(path: Path, columns: Mapping[str, str], present: list[str]) -> None:
    missing = [f"{name!r} ({key})" for key, name in columns.items() if name not in present]
    if missing:
        raise PipelineError(
            f"{path} has no column {' and no column '.join(missing)}. The columns it has: "
            f"{', '.join(repr(name) for name in present)}. Set these keys to columns of the file; a file without a "
            "first line of column names needs one."
        )
    double = [name for name in columns.values() if present.count(name) > 1 or list(columns.values()).count(name) > 1]
    if double:
        raise PipelineError(
            f"{path}: the column {double[0]!r} is there or asked for twice; {' and '.join(columns)} must name two "
            "different columns whose names occur once"
        )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, OSError) as error:
        raise PipelineError(
            f"{path} cannot be read: {' '.join(str(error).split())}. Wanted is UTF-8 text with a first line of column "
            "names and as many values in every line: commas and double quotes (.csv), tabs and no quotes (.tsv), or "
            "a .parquet file."
        ) from error
