"""Text columns out of a user's CSV, TSV or parquet file, with errors that say what the file does have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pipeline_steps.core.errors import PipelineError

_BLOCK_BYTES = 16 * 2**20
_BATCH_ROWS = 65_536


def read_text_columns(path: Path, columns: Mapping[str, str], names: Sequence[str] | None = None) -> pa.Table:
    """All of `text_batches` as one table."""
    schema = pa.schema([(name, pa.string()) for name in columns.values()])
    return pa.Table.from_batches(text_batches(path, columns, names), schema=schema)


def text_batches(
    path: Path, columns: Mapping[str, str], names: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The columns named by the values of `columns` as text, in that order, part by part; no value is null.

    The keys of `columns` are the config keys that name the columns, for the error. The ending of `path` (before
    `.gz`) says what it is: `.parquet`; `.tsv`, tab-separated without quoting, as CC3M and CC12M come; everything
    else is comma-separated with double quotes. Text is UTF-8. Its first line names the columns, unless `names` does.
    Raises PipelineError for a missing file, another format and missing columns (naming the ones there are).
    """
    if not path.is_file():
        raise PipelineError(f"{path} does not exist or is not a file; give the path of a CSV, TSV or parquet file")
    wanted = list(columns.values())
    with _readable(path):
        if path.suffix == ".parquet":
            _refuse_names(path, names)
            _require_columns(path, columns, pq.read_schema(path).names)
            batches: Iterable[pa.RecordBatch] = pq.ParquetFile(path).iter_batches(_BATCH_ROWS, columns=wanted)
        else:
            _require_columns(path, columns, list(names) if names else _csv_header(path))
            batches = _csv_batches(path, wanted, names)
        for batch in batches:
            texts = [pc.fill_null(batch.column(name).cast(pa.string()), "") for name in wanted]
            yield pa.RecordBatch.from_arrays(texts, wanted)


def _csv_header(path: Path) -> list[str]:
    with pa_csv.open_csv(path, parse_options=_parsing(path), read_options=_reading(None)) as reader:
        return list(reader.schema.names)


def _csv_batches(path: Path, wanted: list[str], names: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    types = pa_csv.ConvertOptions(
        include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=False
    )
    options = {"parse_options": _parsing(path), "read_options": _reading(names), "convert_options": types}
    with pa_csv.open_csv(path, **options) as reader:
        yield from reader


def _parsing(path: Path) -> pa_csv.ParseOptions:
    if ".tsv" in path.suffixes:
        return pa_csv.ParseOptions(delimiter="\t", quote_char=False)
    return pa_csv.ParseOptions(newlines_in_values=True)


def _reading(names: Sequence[str] | None) -> pa_csv.ReadOptions:
    return pa_csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES, column_names=names)


def _refuse_names(path: Path, names: Sequence[str] | None) -> None:
    if names:
        raise PipelineError(
            f"{path} names its columns itself, and so does download_images.url_list_columns ({', '.join(names)}); set "
            "that to null"
        )


def _require_columns(path: Path, columns: Mapping[str, str], present: list[str]) -> None:
    missing = [f"{name!r} ({key})" for key, name in columns.items() if name not in present]
    if missing:
        raise PipelineError(
            f"{path} has no column {' and no column '.join(missing)}. The columns it has: "
            f"{', '.join(repr(name) for name in present)}. Set these keys to columns of the file; a file without a "
            "first line of column names needs one (or, where it lists URLs, download_images.url_list_columns)."
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
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, UnicodeDecodeError, OSError) as error:
        raise PipelineError(
            f"{path} cannot be read: {' '.join(str(error).split())}. Wanted is UTF-8 text with a first line of column "
            "names and as many values in every line: commas and double quotes (.csv), tabs and no quotes (.tsv), or "
            "a .parquet file."
        ) from error
