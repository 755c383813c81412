"""Where pairs come from: a download, webdataset shards, or the user's own CSV; every path stays below its root."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import BuildManifestConfig
from pipeline_steps.data.containment import Containment
from pipeline_steps.data.scan_split import IMAGES, scan_pairs_of
from pipeline_steps.data.shards import SHARD_ENDING, finished_shards, picture_sizes, shard_tables
from pipeline_steps.data.tables import text_batches

FILE_COLUMNS = ("image_path", "caption")
_BATCH_ROWS = 2**16


@dataclass(frozen=True)
class FilePairs:
    """Pairs whose pictures are files: `batches`, read once, have the columns image_path (POSIX, below `root`) and
    caption. They raise PipelineError for what they cannot read and, at their end, for paths that lead outside.
    """

    root: Path
    batches: Iterable[pa.RecordBatch]


@dataclass(frozen=True)
class ShardPairs:
    """Pairs in tar shards of webdataset's form: `shards` are files below `root`, in order.

    A caption is in <key>.txt, else in the field `caption_field` of <key>.json.
    """

    root: Path
    shards: tuple[str, ...]
    caption_field: str


PairSource = FilePairs | ShardPairs


def chosen_pairs(given: Mapping[str, Path], settings: BuildManifestConfig) -> PairSource:
    """The one source of pairs: what was `given` (images, csv, shards or scan), or else what the settings name.

    Raises PipelineError for none and for several.
    """
    configured = {"csv": settings.source_csv, "shards": settings.source_shards, "scan": settings.source_scan}
    named = {**{name: Path(path) for name, path in configured.items() if path and name not in given}, **given}
    if len(named) > 1:
        raise PipelineError(
            f"pairs come from one source, and here are {len(named)}: "
            f"{', '.join(f'{name} {path}' for name, path in sorted(named.items()))} (--images, --csv, --shards, "
            "--scan, build_manifest.source_csv, source_shards, source_scan); leave all but one out"
        )
    match dict(named):
        case {"csv": path}:
            return csv_pairs(path, settings)
        case {"shards": path}:
            return shard_pairs(path, settings)
        case {"scan": path}:
            return scan_pairs(path, settings)
        case {"images": path}:
            return downloaded_pairs(path)
    raise PipelineError(
        "no pairs: give --images, the folder of download_images, or --csv, your own CSV, or --shards, a folder of "
        "tars, or --scan, a folder of SCAN's split files"
    )


def scan_pairs(folder: Path, settings: BuildManifestConfig) -> FilePairs:
    """The training pairs of SCAN's split files, in their order.

    Raises PipelineError for files that are missing or do not belong together.
    """
    rows = scan_pairs_of(folder, "train", settings.scan_pictures, settings.scan_captions)
    return FilePairs(folder / IMAGES, _contained(folder / IMAGES, _batches(rows), settings.link_roots))


def downloaded_pairs(images: Path) -> PairSource:
    """The successes of a folder of `download_images`, in the order of the URL list whatever the order of arrival.

    Raises PipelineError for another kind of folder.
    """
    names = finished_shards(images)
    if not names:
        raise PipelineError(
            f"{images} holds no finished shard of img2dataset (NNNNN.parquet with NNNNN_stats.json); run the stage "
            "download_images, or give your own pairs with build_manifest.source_csv or source_shards"
        )
    tars = [f"{name}{SHARD_ENDING}" for name in names if (images / f"{name}{SHARD_ENDING}").is_file()]
    if tars:
        return _shard_pairs(images, tars, "caption")
    return FilePairs(images, _contained(images, _downloaded(images)))


def csv_pairs(path: Path, settings: BuildManifestConfig) -> FilePairs:
    """The rows of the user's own CSV (or TSV, or parquet), in its order.

    Raises PipelineError, when the batches are read, for missing columns and for paths that leave the root.
    """
    columns = {
        "build_manifest.image_column": settings.image_column,
        "build_manifest.caption_column": settings.caption_column,
    }
    root = path.parent if settings.image_root is None else Path(settings.image_root)
    if not root.is_dir():
        raise PipelineError(
            f"build_manifest.image_root = {str(root)!r} is not a folder; give the one that the paths start from"
        )
    batches = (pa.RecordBatch.from_arrays(batch.columns, FILE_COLUMNS) for batch in text_batches(path, columns))
    return FilePairs(root, _contained(root, batches, settings.link_roots))


def shard_pairs(folder: Path, settings: BuildManifestConfig) -> ShardPairs:
    """The pairs of published shards: every *.tar in `folder`, sorted by name.

    Raises PipelineError when there is none, and when one is a link that leads out of the folder.
    """
    names = sorted(path.name for path in folder.glob(f"*{SHARD_ENDING}")) if folder.is_dir() else []
    if not names:
        raise PipelineError(
            f"build_manifest.source_shards: {folder} is no folder with webdataset shards (*{SHARD_ENDING}, not "
            "compressed); give the folder that holds them"
        )
    return _shard_pairs(folder, names, settings.caption_column, settings.link_roots)


def _shard_pairs(folder: Path, names: list[str], caption_field: str, link_roots: Sequence[str] = ()) -> ShardPairs:
    shards = Containment(folder, link_roots).inside(names)
    strays = [name for name, shard in zip(names, shards, strict=True) if shard is None or not name.isprintable()]
    if strays:
        raise PipelineError(
            f"{len(strays)} of {len(names)} shards in {folder} are links to files elsewhere, or have a name that is no "
            f"text (the first: {strays[0]!r}). Put the files themselves there, as a hub's command line does with "
            "--local-dir, or name the folder that they are in under build_manifest.link_roots."
        )
    return ShardPairs(folder, tuple(shard for shard in shards if shard is not None), caption_field)


def _batches(rows: Iterator[tuple[str, str]]) -> Iterator[pa.RecordBatch]:
    while part := list(islice(rows, _BATCH_ROWS)):
        columns = [pa.array(column, pa.string()) for column in zip(*part, strict=True)]
        yield pa.RecordBatch.from_arrays(columns, FILE_COLUMNS)


def _downloaded(images: Path) -> Iterator[pa.RecordBatch]:
    for shard, table in shard_tables(images, ["key", "caption", "status"]):
        names = picture_sizes(images / shard)
        suffixes = Counter(Path(name).suffix for name, _ in names.values()).most_common(1)
        usual = suffixes[0][0] if suffixes else ""
        rows = [row for row in table.to_pylist() if row["status"] == "success"]
        rows.sort(key=lambda row: str(row["key"]))
        found = [names[row["key"]][0] if row["key"] in names else f"{row['key']}{usual}" for row in rows]
        captions = pa.array([row["caption"] or "" for row in rows], pa.string())
        paths = pa.array([f"{shard}/{name}" for name in found], pa.string())
        yield pa.RecordBatch.from_arrays([paths, captions], FILE_COLUMNS)


def _contained(
    root: Path, batches: Iterable[pa.RecordBatch], link_roots: Sequence[str] = ()
) -> Iterator[pa.RecordBatch]:
    check = Containment(root, link_roots)
    for batch in batches:
        paths = pa.array(check.inside(batch.column("image_path").to_pylist()), pa.string())
        yield batch.set_column(0, FILE_COLUMNS[0], paths).filter(paths.is_valid())
    check.refuse_strays()
