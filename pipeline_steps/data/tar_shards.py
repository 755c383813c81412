"""A webdataset shard (a tar of <key>.jpg, <key>.txt, <key>.json) read once: where its pictures lie, what they are."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.foreign import told_by_first_bytes
from pipeline_steps.data.image_check import BadPicture, Picture, check_bytes, fits, oversized

BrokenCause = Literal[
    "truncated_shard", "damaged_shard", "picture_without_caption", "caption_without_picture", "unreadable_caption",
    "duplicate_key", "other_endings",
]  # fmt: skip
BROKEN_CAUSES: tuple[BrokenCause, ...] = get_args(BrokenCause)
PICTURE_FORMS = ("jpg", "jpeg", "png", "webp", "avif", "jp2")
_BLOCK = tarfile.BLOCKSIZE
_MOST_CAPTION_BYTES = 2**20
_MOST_MEMBERS = 2**21
# webdataset's rule: the key of a member is its path up to the first dot of its name.
MEMBER_NAME = re.compile(r"((?:.*/|)[^./]+)\.([^/]*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture with a caption: its key, the place of its bytes in the shard, and what checking them gave."""

    key: str
    offset: int
    size: int
    caption: str
    picture: Picture | BadPicture


@dataclass(frozen=True, slots=True)
class Broken:
    """A key, or a whole shard ("" as key), that gives no pair, and why."""

    key: str
    cause: BrokenCause
    message: str


@dataclass
class _Parts:
    picture: tuple[int, int, Picture | BadPicture] | None = None
    texts: dict[str, bytes] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)

    def beside(self) -> str:
        """For an error: what else there is."""
        return f"; it has {', '.join(sorted(self.others)[:5])}" if self.others else ""


def read_shard(path: Path, caption_field: str, max_image_pixels: int) -> tuple[list[Sample], list[Broken]]:
    """Every sample of a shard, sorted by key, and what is broken in it. Its bytes are read once, front to back.

    A caption is the text of <key>.txt, else the field `caption_field` of <key>.json. A shard that ends early, or holds
    something else than tar from some place on, gives what is whole before that. Raises PipelineError when the file
    itself cannot be read.
    """
    parts: dict[str, _Parts] = {}
    broken: list[Broken] = []
    try:
        with path.open("rb") as stream:
            for member in members(path, os.fstat(stream.fileno()).st_size, broken):
                match = MEMBER_NAME.fullmatch(member.name.removeprefix("./"))
                if match is None:
                    continue
                own = parts.setdefault(match[1], _Parts())
                if match[2].lower() in (*PICTURE_FORMS, "txt", "json"):
                    _add(own, match, member, stream.fileno(), max_image_pixels, broken)
                else:
                    own.others.append(match[2])
    except OSError as error:
        raise PipelineError(
            f"the shard {path} cannot be read ({error}); mend the disk or the file, or take it away"
        ) from error
    samples = [found for key in sorted(parts) if (found := _sample(key, parts[key], caption_field, broken))]
    return samples, broken


def members(path: Path, size: int, broken: list[Broken]) -> Iterator[tarfile.TarInfo]:
    """The regular members of a tar of `size` bytes that are whole; what is wrong with the tar goes into `broken`."""
    end, count = 0, 0
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.size < 0 or tar.offset <= end:  # tarfile itself would go round in circles
                    raise tarfile.ReadError(f"the header at byte {end} leads backwards")
                end = tar.offset
                if member.offset_data + member.size > size:
                    break
                count += 1
                if count > _MOST_MEMBERS:
                    raise tarfile.ReadError(f"it has more than {_MOST_MEMBERS:,} members")
                tar.members.clear()  # type: ignore[attr-defined]  # which tarfile would keep
                if member.isreg() and not member.issparse():
                    yield member
    except (tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError) as error:  # on absurd headers
        what = told_by_first_bytes(path) if end == 0 else None
        told = f"it is {what}" if what else repr(error)
        broken.append(Broken("", "damaged_shard" if end + _BLOCK <= size else "truncated_shard", told))
        return
    if size == 0:
        broken.append(Broken("", "truncated_shard", f"it is {told_by_first_bytes(path)}"))
        return
    with path.open("rb") as stream:
        block = os.pread(stream.fileno(), _BLOCK, min(end, size))
    if len(block) < _BLOCK:
        broken.append(Broken("", "truncated_shard", f"it has {size} bytes and no end of a tar"))
    elif block.count(0) < _BLOCK:
        broken.append(Broken("", "damaged_shard", f"what follows byte {end} is no tar"))


def _add(
    parts: _Parts, name: re.Match[str], member: tarfile.TarInfo, file: int, limit: int, broken: list[Broken]
) -> None:
    key, form = name[1], name[2].lower()
    if parts.picture if form in PICTURE_FORMS else form in parts.texts:
        broken.append(Broken(key, "duplicate_key", f"{member.name} comes again at byte {member.offset_data}"))
    elif form in PICTURE_FORMS:
        found: Picture | BadPicture = oversized(member.size)
        if fits(member.size, limit):
            found = check_bytes(os.pread(file, member.size, member.offset_data), limit)
        parts.picture = (member.offset_data, member.size, found)
    else:
        parts.texts[form] = os.pread(file, min(member.size, _MOST_CAPTION_BYTES + 1), member.offset_data)


def _sample(key: str, parts: _Parts, caption_field: str, broken: list[Broken]) -> Sample | None:
    if parts.picture is None and not parts.texts:
        told = f"neither picture ({', '.join(PICTURE_FORMS)}) nor .txt or .json{parts.beside()}"
        broken.append(Broken(key, "other_endings", told))
        return None
    if parts.picture is None:
        told = f"no picture ({', '.join(PICTURE_FORMS)}){parts.beside()}"
        broken.append(Broken(key, "caption_without_picture", told))
        return None
    if not parts.texts:
        broken.append(Broken(key, "picture_without_caption", f"neither .txt nor .json{parts.beside()}"))
        return None
    try:
        caption = _caption(parts.texts, caption_field)
    except KeyError as error:
        broken.append(Broken(key, "picture_without_caption", str(error.args[0])))
        return None
    except (ValueError, RecursionError) as error:
        broken.append(Broken(key, "unreadable_caption", str(error)))
        return None
    return Sample(key, parts.picture[0], parts.picture[1], caption, parts.picture[2])


def _caption(texts: dict[str, bytes], caption_field: str) -> str:
    content = texts.get("txt", texts.get("json", b""))
    if len(content) > _MOST_CAPTION_BYTES:
        raise ValueError(f"more than {_MOST_CAPTION_BYTES} bytes")
    if "txt" in texts:
        return content.decode("utf-8")
    values = json.loads(content)
    if not isinstance(values, dict) or caption_field not in values:
        present = ", ".join(map(repr, values)) if isinstance(values, dict) else "no fields"
        raise KeyError(f"no .txt, and the .json has no field {caption_field!r} (it has {present})")
    caption = values[caption_field]
    if caption is not None and not isinstance(caption, str):
        raise ValueError(f"the .json has {type(caption).__name__} as {caption_field!r}, not text")
    return (caption or "").encode("utf-8").decode("utf-8")  # a lone surrogate, which JSON allows, is an error here
