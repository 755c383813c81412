"""What every kind of source gives: splits of pictures with labels and captions, class names, templates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema.datasets import CaptionsCsvSource, KarpathySource, NcuSource, ScanSource
from pipeline_steps.data.containment import Containment

_MOST_DIGITS = 9


class AbsentError(PipelineError):
    """A source, or one of its splits, is not there: the next one may be. Other faults are no AbsentError."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture: its encoded bytes as `content`, or the file at `path`, or `size` bytes from `offset` on of that."""

    path: str = ""
    offset: int | None = None
    size: int | None = None
    content: bytes | None = None
    label: int = -1
    captions: Sequence[str] = ()


@dataclass(frozen=True)
class SourceSplit:
    """A split in its order. `split` is the source's own name; `root` is what the entries' paths start from, None where
    all of them bring their bytes.
    """

    split: str
    root: Path | None
    entries: Iterable[Entry]


@dataclass(frozen=True)
class SourceSet:
    """A source that is there, with its test split. `place` is what it was read from.

    `classes` and `templates` are the source's own names, where it has some; `missing` says of other splits why not.
    """

    place: str
    splits: Mapping[str, SourceSplit]
    classes: Sequence[str] = ()
    templates: Sequence[str] = ()
    missing: Mapping[str, str] = field(default_factory=dict)


def placed(text: str, root: Path) -> Path:
    """A path of a row; `{root}` in it stands for prepare_dataset.root."""
    return Path(text.replace("{root}", str(root)))


def roots_of(source: NcuSource | KarpathySource | CaptionsCsvSource | ScanSource, root: Path) -> list[Path]:
    """The folders that links of a source may lead into."""
    return [placed(text, root) for text in source.link_roots]


def is_unicode(value: object) -> bool:
    """Whether it is a text that can be written: JSON and Python allow half a character, which UTF-8 does not."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def whole_number(text: str, most_digits: int = _MOST_DIGITS) -> int | None:
    """The number from 0 on that a text says, None where it says something else."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= most_digits else None


def below(folder: Path, paths: Sequence[str], listed_in: Path, link_roots: Iterable[Path] = ()) -> list[str]:
    """The paths from `folder` on, without links and dots.

    Raises PipelineError naming the first that leads outside of it and of the folders that links may lead into.
    """
    inside = Containment(folder, link_roots).inside(paths)
    strays = [path for path, found in zip(paths, inside, strict=True) if found is None]
    if strays:
        raise PipelineError(
            f"{listed_in} names {len(strays)} pictures outside {folder}, the first of them {strays[0]!r}; paths start "
            "from that folder and stay below it; links to pictures elsewhere, and paths there, are followed into the "
            "folders of the source's link_roots alone"
        )
    return [path for path in inside if path is not None]
