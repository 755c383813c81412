"""Evaluation sets as webdataset shards in clip-benchmark's layout, on this machine or behind http(s).

<place>/classnames.txt, zeroshot_classification_templates.txt, dataset_type.txt, <split>/nshards.txt, <split>/0.tar ...
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema.datasets import WebdatasetSource
from pipeline_steps.data.tar_shards import MEMBER_NAME, PICTURE_FORMS, Broken, members
from pipeline_steps.evaluation.datasets.remote import RemoteFolder
from pipeline_steps.evaluation.datasets.source import AbsentError, Entry, SourceSet, SourceSplit, placed, whole_number

_COLLECTION = "https://huggingface.co/datasets/clip-benchmark/wds_{}/tree/main"
_MOST_SHARDS = 100_000
_MOST_ANSWER_BYTES = 2**20
# A file of the layout by its name, on this machine and whole; None where there is none.
Fetch = Callable[[str], Path | None]


def read_webdataset(source: WebdatasetSource, root: Path) -> SourceSet:
    """The shards where they are, or fetched first into a folder below `root`, each file whole or not at all.

    Labels are the .cls members, captions the lines of the .txt members. Raises AbsentError without the test split,
    PipelineError for shards that are damaged or lack something.
    """
    folder, fetch = _opened(source.place, root)
    kind = _text(fetch("dataset_type.txt")).strip().lower() or "classification"
    if kind not in ("classification", "retrieval"):
        raise PipelineError(f"{source.place} is of the type {kind}; allowed: classification, retrieval")
    splits, missing = {}, {}
    for name, own in source.splits.items():
        try:
            shards = _shards(fetch, own, source.place)
        except AbsentError as error:
            if name == "test":
                raise
            missing[name] = str(error)
            continue
        form = "txt" if kind == "retrieval" else "cls"
        splits[name] = SourceSplit(own, folder, _entries(folder, shards, form, folder.parent == root / "webdataset"))
    classes = _lines(_text(fetch("classnames.txt")))
    templates = _lines(_text(fetch("zeroshot_classification_templates.txt")))
    return SourceSet(f"webdataset: {source.place.replace('{root}', str(root))}", splits, classes, templates, missing)


def _opened(place: str, root: Path) -> tuple[Path, Fetch]:
    if place.startswith("wds/"):
        place = _COLLECTION.format(place.removeprefix("wds/").replace("/", "-"))
    if place.startswith(("http://", "https://")):
        remote = RemoteFolder(place, root / "webdataset")
        return remote.kept_in, remote.fetch
    folder = placed(place, root)
    if not folder.is_dir():
        raise AbsentError(f"{folder} is no folder")
    return folder, lambda name: path if (path := folder / name).is_file() else None


def _text(path: Path | None) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path else ""


def _lines(text: str) -> list[str]:
    """The lines that say something: a line ends at a line feed and at nothing else that Unicode calls a break."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def _shards(fetch: Fetch, split: str, place: str) -> list[Path]:
    listed = fetch(f"{split}/nshards.txt")
    if listed is None:
        raise AbsentError(f"{place} has no {split}/nshards.txt")
    text = _text(listed)
    count = whole_number(text) or 0
    if not 0 < count <= _MOST_SHARDS:
        raise PipelineError(f"{listed} holds {text[:20]!r}; wanted is the number of shards, 1 to {_MOST_SHARDS}")
    paths = []
    for name in (f"{split}/{number}.tar" for number in range(count)):
        path = fetch(name)
        if path is None:
            raise PipelineError(f"{place} lacks {name}, and says that there are {count} shards of {split}")
        paths.append(path)
    return paths


def _entries(folder: Path, shards: list[Path], form: str, fetched: bool) -> Iterator[Entry]:
    for shard in shards:
        try:
            yield from _shard_entries(folder, shard, form, fetched)
        except OSError as error:
            raise PipelineError(f"the shard {shard} cannot be read ({error})") from error


def _shard_entries(folder: Path, shard: Path, form: str, fetched: bool) -> Iterator[Entry]:
    """The samples of a shard in its order: a picture, and a member of the form `cls` or `txt` under the same key.

    A damaged one that was `fetched` is removed, so that the next run fetches it again.
    """
    pictures: dict[str, tuple[int, int]] = {}
    answers: dict[str, bytes] = {}
    broken: list[Broken] = []
    with shard.open("rb") as stream:
        for member in members(shard, os.fstat(stream.fileno()).st_size, broken):
            match = MEMBER_NAME.fullmatch(member.name.removeprefix("./"))
            if match is None:
                continue
            key, ending = match[1], match[2].lower()
            if key in pictures if ending in PICTURE_FORMS else ending == form and key in answers:
                raise PipelineError(f"the shard {shard} has {member.name} or another picture of its key twice")
            if ending in PICTURE_FORMS:
                pictures[key] = (member.offset_data, member.size)
            elif ending == form:
                if member.size > _MOST_ANSWER_BYTES:
                    told = f"{member.name} of {member.size:,} bytes; a label is smaller"
                    raise PipelineError(f"the shard {shard} has {told}")
                answers[key] = os.pread(stream.fileno(), member.size, member.offset_data)
    if broken and fetched:
        shard.unlink()
        told = f"was damaged ({broken[0].message}) and is removed; run the stage again to fetch it"
        raise PipelineError(f"the shard {shard} {told}")
    if broken:
        raise PipelineError(f"the shard {shard} is damaged ({broken[0].message}); put it there again")
    if lonely := pictures.keys() ^ answers.keys():
        raise PipelineError(f"the shard {shard} has no picture or no .{form} for {min(lonely)}")
    path = shard.relative_to(folder).as_posix()
    for key, (offset, size) in pictures.items():
        text = answers[key].decode("utf-8", errors="replace")
        if form == "txt":
            yield Entry(path, offset, size, captions=_lines(text))
        elif (label := whole_number(text)) is not None:
            yield Entry(path, offset, size, label=label)
        else:
            raise PipelineError(f"the shard {shard} has the label {text[:20]!r} for {key}; wanted is a whole number")
