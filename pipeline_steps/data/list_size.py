"""How many pairs an experiment has, before or after its manifest is made."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc
from msgspec import Struct

from pipeline_steps.core.files import read_json
from pipeline_steps.core.schema import Config
from pipeline_steps.data.scan_split import LISTS, line_count
from pipeline_steps.data.tables import read_text_columns, text_batches


class _Counted(Struct):
    pairs: int


def known_pairs(config: Config) -> int | None:
    """The pairs of the manifest where it is there; else the rows of the list, an upper bound; None for shards."""
    report = Path(config.results_dir, config.experiment, "build_manifest", "report.json")
    if report.is_file():
        return read_json(report, _Counted, "Run build_manifest again.").pairs
    download, manifest = config.download_images, config.build_manifest
    if manifest.source_shards:
        return None
    if manifest.source_scan:
        return line_count(Path(manifest.source_scan) / LISTS / manifest.scan_captions)
    if manifest.source_csv:
        column = {"build_manifest.caption_column": manifest.caption_column}
        return _rows(Path(manifest.source_csv), column, None)
    if download.url_list:
        column = {"download_images.url_column": download.url_column}
        return _rows(Path(download.url_list), column, download.url_list_columns)
    split = {"download_images.embedded_split": "split"}
    table = read_text_columns(Path(download.embedded_parquet), split)
    return pc.sum(pc.equal(table["split"], download.embedded_split)).as_py()  # type: ignore[no-any-return]


def _rows(path: Path, column: dict[str, str], names: tuple[str, ...] | None) -> int:
    return sum(batch.num_rows for batch in text_batches(path, column, names))
