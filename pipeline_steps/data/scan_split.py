"""The split files of SCAN (Lee et al. 2018) as NPC lays them out: a picture's id a line, and a caption a line.

    <folder>/images/                      the pictures
    <folder>/annotations/scan_split/      train_ids.txt, train_caps.txt, 0.4_noise_train_caps.txt, dev_..., test_...

There is an id for every caption, or for every k of them. Source: data.py of ZhangXu0963/NPC at 823d781.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TextIO

from pipeline_steps.core.errors import PipelineError

IMAGES, LISTS = "images", Path("annotations", "scan_split")
ScanPictures = Literal["mscoco", "flickr30k", "cc120k"]


def scan_pairs_of(
    folder: Path, split: str, pictures: ScanPictures, captions: str | None = None
) -> Iterator[tuple[str, str]]:
    """The file below <folder>/images and the caption of each line of `captions` (null: <split>_caps.txt).

    Files are called by the picture's id as NPC does: COCO_2014_<12 digits>.jpg, the line of image_name.txt whose number
    the id is, or <id>.jpg. Raises PipelineError for files that are missing or do not belong together.
    """
    lists = folder / LISTS
    ids, texts = lists / f"{split}_ids.txt", lists / (captions or f"{split}_caps.txt")
    id_count, caption_count = line_count(ids), line_count(texts)
    if not id_count or caption_count % id_count:
        raise PipelineError(
            f"{texts} has {caption_count:,} captions and {ids} has {id_count:,} pictures: every picture has as many "
            "captions as any other. NPC's code appends to a file of noise that is there already; keep its first "
            "captions, or make it anew."
        )
    return _pairs(ids, texts, caption_count // id_count, _naming(lists, pictures))


def line_count(path: Path) -> int:
    """Lines of a text file. Raises PipelineError when it cannot be read."""
    try:
        with path.open("rb") as stream:
            return sum(1 for _ in stream)
    except OSError as error:
        raise PipelineError(f"{path} cannot be read ({error.strerror}); it belongs to SCAN's split files") from error


def _pairs(ids: Path, texts: Path, per_picture: int, name_of: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    try:
        with _lines(ids) as id_lines, _lines(texts) as text_lines:
            for line in id_lines:
                name = name_of(line.strip())
                for _ in range(per_picture):
                    yield name, next(text_lines).strip()
    except UnicodeDecodeError as error:
        raise PipelineError(f"{texts} is no UTF-8 text ({error})") from error


def _lines(path: Path) -> TextIO:
    """Open with the ends of lines that `line_count` counts: a carriage return, say, is part of a caption."""
    return path.open(encoding="utf-8", newline="\n")


def _naming(lists: Path, pictures: ScanPictures) -> Callable[[str], str]:
    if pictures == "mscoco":
        return lambda number: f"COCO_2014_{number:0>12}.jpg"
    if pictures == "cc120k":
        return lambda number: f"{number}.jpg"
    path = lists / "image_name.txt"
    line_count(path)
    with _lines(path) as lines:
        names = list(lines)

    def named(number: str) -> str:
        if not number.isascii() or not number.isdecimal() or int(number) >= len(names):
            raise PipelineError(
                f"{path} has {len(names)} lines, and an id is {number!r}; wanted is a line's number from 0"
            )
        return names[int(number)].strip()

    return named
