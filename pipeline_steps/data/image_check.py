"""Every picture read and decoded once, in processes: its sha256 and size, or why it cannot be used."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import joblib
from PIL import Image, UnidentifiedImageError

from pipeline_steps.data.progress import progress_bar

BadCause = Literal["missing", "undecodable", "too_large"]
BAD_CAUSES: tuple[BadCause, ...] = get_args(BadCause)
# Formats that Pillow decodes itself; its EPS reader, for one, would start another program.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_LARGEST_PIXEL_BYTES = 8
_METADATA_BYTES = 16 * 2**20
_CHUNK = 250


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that decodes: sha256 of the file's bytes (hex), size in pixels."""

    sha256: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class BadPicture:
    """A picture that cannot be used, and what was said about it."""

    cause: BadCause
    message: str


def check_pictures(
    root: Path, image_paths: Sequence[str], *, max_image_pixels: int, processes: int
) -> dict[str, Picture | BadPicture]:
    """Check each picture `root / path`; the keys are the paths. `processes` = 0 takes all CPUs of this job."""
    chunks = [list(image_paths[start : start + _CHUNK]) for start in range(0, len(image_paths), _CHUNK)]
    workers = min(processes or joblib.cpu_count(), len(chunks) // 4 + 1)
    jobs = (joblib.delayed(_check_chunk)(root, chunk, max_image_pixels) for chunk in chunks)
    found: dict[str, Picture | BadPicture] = {}
    with progress_bar(len(image_paths), "build_manifest", "picture") as bar:
        for chunk, answers in zip(chunks, joblib.Parallel(workers, return_as="generator")(jobs), strict=True):
            found.update(zip(chunk, answers, strict=True))
            bar.update(len(chunk))
    return found


def check_picture(path: Path, max_image_pixels: int) -> Picture | BadPicture:
    """Read one file once, look at its size before decoding, decode all of it.

    A file with more bytes than the largest picture allowed can have is too large, unread. Above Pillow's own
    ceiling (about 179 million pixels) a picture is too large whatever `max_image_pixels` says.
    """
    try:
        if not path.is_file():
            return BadPicture("missing", "not a regular file" if os.path.lexists(path) else "no such file")
        if path.stat().st_size > max_image_pixels * _LARGEST_PIXEL_BYTES + _METADATA_BYTES:
            return BadPicture("too_large", f"{path.stat().st_size} bytes")
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_image_pixels:
                return BadPicture("too_large", f"{width} x {height} pixels")
            image.convert("RGB")
    except Image.DecompressionBombError as error:
        return BadPicture("too_large", str(error))
    except UnidentifiedImageError:
        return BadPicture("undecodable", f"not a picture in one of the formats {', '.join(FORMATS)}")
    except Exception as error:  # decoders raise nearly anything on damaged bytes; each is this picture's fault
        return BadPicture("undecodable", f"{type(error).__name__}: {error}")
    return Picture(hashlib.sha256(content).hexdigest(), width, height)


def _check_chunk(root: Path, paths: Sequence[str], max_image_pixels: int) -> list[Picture | BadPicture]:
    return [check_picture(root / path, max_image_pixels) for path in paths]
