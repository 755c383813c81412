"""Where the URLs of a download come from: a list of the user's, or the bundled pictures on loopback."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import DownloadImagesConfig
from pipeline_steps.data.embedded import read_embedded
from pipeline_steps.data.failures import Outcome, read_outcome
from pipeline_steps.data.file_server import serving
from pipeline_steps.data.parts import Part
from pipeline_steps.data.tables import read_text_columns

_GUESSED_BYTES = 100_000
_BLOCKS_BYTES = 3 * 4096
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class UrlSource:
    """What is fetched. `table` has the columns url and caption; its rows are http(s) URLs.

    `refused_urls` counts the list's rows with another kind of URL, which are not asked for: img2dataset would read
    a `file:` URL from this machine's disk. `content` identifies the list, whatever port a server got.
    `bytes_per_row` is a guess of what a row takes on disk with its caption and metadata. `first_shard` is the number of
    the table's first shard among the `shards_of_list` of the whole list.
    """

    table: pa.Table
    refused_urls: int
    content: str
    bytes_per_row: int
    first_shard: int
    shards_of_list: int

    def outcome(self, shards: Path, retry_passes: int) -> Outcome:
        """What came of its URLs, out of img2dataset's folder."""
        return read_outcome(
            shards, asked=self.table.num_rows, refused_urls=self.refused_urls, shards_of_list=self.shards_of_list,
            retry_passes=retry_passes,
        )  # fmt: skip


@contextmanager
def url_source(path: Path, settings: DownloadImagesConfig, part: Part) -> Iterator[UrlSource]:
    """A part of the rows of `path`: a URL list where `url_list` is set, else the bundled parquet, served meanwhile."""
    if settings.url_list is not None:
        yield _listed(path, settings, part)
        return
    if settings.fault_fraction > 0 and settings.slow_seconds <= settings.timeout_seconds:
        raise PipelineError(
            f"download_images.slow_seconds = {settings.slow_seconds} is within timeout_seconds = "
            f"{settings.timeout_seconds}, so slow answers would not time out; set it higher"
        )
    files, captions = read_embedded(path, settings.embedded_split, settings.fault_fraction)
    shards, rows = _shards_and_rows(len(files), settings, part)
    own = files[rows]
    content = _digest([*(f"{file.fault}{hashlib.sha256(file.body).hexdigest()}" for file in own), *captions[rows]])
    size = sum(len(file.body) for file in files) // len(files) + _BLOCKS_BYTES
    with serving(files, slow_seconds=settings.slow_seconds, max_image_pixels=settings.max_image_pixels) as base:
        urls = [f"{base}/{number}" for number in range(len(files))]
        schema = pa.schema({"url": pa.string(), "caption": pa.string()})
        table = pa.table([urls[rows], captions[rows]], schema=schema)
        yield UrlSource(table, 0, content, size, *shards)


def _shards_and_rows(rows: int, settings: DownloadImagesConfig, part: Part) -> tuple[tuple[int, int], slice]:
    """The number of the part's first shard, that of all shards, and the part's rows."""
    shards_of_list = -(-rows // settings.samples_per_shard)
    shards = part.shards(shards_of_list)
    own = slice(shards.start * settings.samples_per_shard, min(shards.stop * settings.samples_per_shard, rows))
    return (shards.start, shards_of_list), own


def _listed(path: Path, settings: DownloadImagesConfig, part: Part) -> UrlSource:
    names = {
        "download_images.url_column": settings.url_column,
        "download_images.caption_column": settings.caption_column,
    }
    table = read_text_columns(path, names, settings.url_list_columns).rename_columns(["url", "caption"])
    if table.num_rows == 0:
        raise PipelineError(f"{path} (download_images.url_list) has no rows; give a list with at least one URL")
    web = table.filter(pc.match_substring_regex(table["url"], r"^(?i:https?)://"))
    if web.num_rows == 0:
        raise PipelineError(
            f"{path} has no http(s) URL in the column {settings.url_column!r}; its first value is "
            f"{table['url'][0].as_py()[:80]!r}. Check download_images.url_column."
        )
    refused = table.num_rows - web.num_rows if part.number == 1 else 0  # each counts once
    shards, rows = _shards_and_rows(web.num_rows, settings, part)
    own = web.slice(rows.start, rows.stop - rows.start)
    batches = (batch.to_pydict().values() for batch in own.to_batches(max_chunksize=_ROWS_AT_ONCE))
    content = _digest(f"{url}\n{caption}" for batch in batches for url, caption in zip(*batch, strict=True))
    picture = _GUESSED_BYTES if settings.resize_mode == "no" else settings.image_size**2
    return UrlSource(own, refused, content, picture + _BLOCKS_BYTES, *shards)


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()
