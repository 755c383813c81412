"""Every picture read and decoded once, in processes: its hashes and size, or why it cannot be used."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import joblib
from PIL import Image, UnidentifiedImageError

from pipeline_steps.data.perceptual_hash import perceptual_hash
from pipeline_steps.data.picture_limits import largest_bytes, too_many_scans
from pipeline_steps.data.pictures import FORMATS, to_rgb
from pipeline_steps.data.progress import progress_bar

BadCause = Literal["missing", "undecodable", "too_large"]
BAD_CAUSES: tuple[BadCause, ...] = get_args(BadCause)
CHUNK = 250


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that decodes: sha256 of the file's bytes (hex), size in pixels, perceptual hash."""

    sha256: str
    width: int
    height: int
    phash: int


@dataclass(frozen=True, slots=True)
class BadPicture:
    """A picture that cannot be used, and what was said about it."""

    cause: BadCause
    message: str


def check_pictures(
    root: Path, chunks: Iterable[Sequence[str]], *, total: int, max_image_pixels: int, processes: int
) -> Iterator[tuple[str, Picture | BadPicture]]:
    """Check each picture `root / path` of the `total` in `chunks` (of about CHUNK paths), in their order.

    `processes` = 0 takes all CPUs of this job. Chunks are taken as they are needed, so their number is no matter.
    """
    workers = min(processes or joblib.cpu_count(), total // CHUNK // 4 + 1)
    jobs = (joblib.delayed(_check_chunk)(root, chunk, max_image_pixels) for chunk in chunks)
    with progress_bar(total, "build_manifest", "picture") as bar:
        for answers in joblib.Parallel(workers, return_as="generator")(jobs):
            yield from answers
            bar.update(len(answers))


def check_picture(path: Path, max_image_pixels: int) -> Picture | BadPicture:
    """Read one file once, look at its size before decoding, decode all of it.

    A file with more bytes than the largest picture allowed can have is too large, unread.
    """
    try:
        if not path.is_file():
            return BadPicture("missing", "not a regular file" if os.path.lexists(path) else "no such file")
        size = path.stat().st_size
        return check_bytes(path.read_bytes(), max_image_pixels) if fits(size, max_image_pixels) else oversized(size)
    except (OSError, ValueError) as error:
        return BadPicture("undecodable", f"{type(error).__name__}: {error}")


def check_bytes(content: bytes, max_image_pixels: int) -> Picture | BadPicture:
    """A picture by its bytes, all of it decoded.

    Above Pillow's own ceiling (about 179 million pixels) a picture is too large whatever `max_image_pixels` says.
    """
    if told := too_many_scans(content):
        return BadPicture("too_large", told)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_image_pixels:
                return BadPicture("too_large", f"{width} x {height} pixels")
            image.load()
            phash = perceptual_hash(to_rgb(image))
    except Image.DecompressionBombError as error:
        return BadPicture("too_large", str(error))
    except UnidentifiedImageError:
        return BadPicture("undecodable", f"not a picture in one of the formats {', '.join(FORMATS)}")
    except Exception as error:  # decoders raise nearly anything on damaged bytes; each is this picture's fault
        return BadPicture("undecodable", f"{type(error).__name__}: {error}")
    return Picture(hashlib.sha256(content).hexdigest(), width, height, phash)


def fits(size: int, max_image_pixels: int) -> bool:
    """Whether a picture of `max_image_pixels` pixels can have so many bytes."""
    return size <= largest_bytes(max_image_pixels)


def oversized(size: int) -> BadPicture:
    """What is said of a picture whose bytes do not fit."""
    return BadPicture("too_large", f"{size} bytes")


def _check_chunk(root: Path, paths: Sequence[str], limit: int) -> list[tuple[str, Picture | BadPicture]]:
    return [(path, check_picture(root / path, limit)) for path in paths]
