"""Where pairs come from: a downloaded folder, or the user's own CSV; every path stays below its root."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import BuildManifestConfig
from pipeline_steps.data.shards import picture_sizes, shard_tables
from pipeline_steps.data.tables import read_text_columns

_REFUSED_NAMED = 10


@dataclass(frozen=True)
class PairSource:
    """Row i is the picture `root / image_paths[i]` with `captions[i]`; the paths are POSIX and stay below `root`."""

    root: Path
    image_paths: list[str]
    captions: list[str]


def downloaded_pairs(images: Path) -> PairSource:
    """The successes of a folder of `download_images`, in the order of the URL list whatever the order of arrival.

    Raises PipelineError for another kind of folder.
    """
    found: list[tuple[str, str]] = []
    shards = 0
    for shard, table in shard_tables(images, ["key", "caption", "status"]):
        shards += 1
        names = picture_sizes(images / shard)
        suffixes = Counter(Path(name).suffix for name, _ in names.values()).most_common(1)
        for row in sorted(table.to_pylist(), key=lambda row: str(row["key"])):
            if row["status"] == "success":
                suffix = (
                    Path(names[row["key"]][0]).suffix if row["key"] in names else suffixes[0][0] if suffixes else ""
                )
                found.append((f"{shard}/{row['key']}{suffix}", row["caption"] or ""))
    if not shards:
        raise PipelineError(
            f"{images} holds no finished shard of img2dataset (NNNNN.parquet with NNNNN_stats.json); run the stage "
            "download_images, or give your own pairs with build_manifest.source_csv"
        )
    return PairSource(images, contained(images, [path for path, _ in found]), [caption for _, caption in found])


def csv_pairs(path: Path, settings: BuildManifestConfig) -> PairSource:
    """The rows of the user's own CSV (or TSV, or parquet), in its order.

    Raises PipelineError for missing columns and for paths that leave the root.
    """
    columns = {
        "build_manifest.image_column": settings.image_column,
        "build_manifest.caption_column": settings.caption_column,
    }
    images, captions = read_text_columns(path, columns).columns
    root = path.parent if settings.image_root is None else Path(settings.image_root)
    if not root.is_dir():
        raise PipelineError(
            f"build_manifest.image_root = {str(root)!r} is not a folder; give the one that the paths start from"
        )
    return PairSource(root, contained(root, images.to_pylist()), captions.to_pylist())


def contained(root: Path, paths: Sequence[str]) -> list[str]:
    """The paths relative to `root`, POSIX, without `.` and `..`.

    Raises PipelineError naming the rows whose path is empty or leads outside: absolute elsewhere, by `..`, or through
    a symbolic link. A missing file is no matter here.
    """
    real_root, known = os.path.realpath(root), dict[str, str | None]()
    for path in paths:
        if path not in known:
            known[path] = _inside(real_root, path)
    refused = [f"row {row}: {path!r}" for row, path in enumerate(paths, 1) if known[path] is None]
    if refused:
        more = f" and {len(refused) - _REFUSED_NAMED} more" if len(refused) > _REFUSED_NAMED else ""
        raise PipelineError(
            f"{len(refused)} of {len(paths)} rows have an image path that leads outside the root {root} (or none): "
            f"{'; '.join(refused[:_REFUSED_NAMED])}{more}. Set build_manifest.image_root to the folder that holds all "
            "pictures, and write paths that start from it; links to pictures elsewhere are not followed."
        )
    return [inside for path in paths if (inside := known[path]) is not None]


def _inside(real_root: str, path: str) -> str | None:
    if not path or "\0" in path:
        return None
    real = os.path.realpath(os.path.join(real_root, path))  # noqa: PTH118 - Path is far slower over millions of rows
    if not real.startswith(real_root.rstrip("/") + "/"):
        return None
    return PurePosixPath(real).relative_to(real_root).as_posix()
