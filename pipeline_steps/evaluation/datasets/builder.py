"""Evaluation sets out of clip-benchmark's own builder: torchvision's readers, with a download where there is one."""

from __future__ import annotations

import errno
import io
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock
from PIL import Image

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema.datasets import ClipBenchmarkSource
from pipeline_steps.evaluation.datasets.source import AbsentError, Entry, SourceSet, SourceSplit, below, placed

Picture = tuple[str, int, Sequence[str]]
_TAKES_LOADER = {
    "country211", "cars", "dtd", "eurosat", "fgvc_aircraft", "flowers", "food101", "imagenet1k", "renderedsst2",
    "sun397",
}  # fmt: skip
_NO_ORDER = {"sun397"}  # torchvision lists it in the file system's order
_OWN_NAMES = {("imagenet1k", "val"): "test"}  # the builder calls the validation pictures so
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT}
_LONGEST_REASON = 300


def read_clip_benchmark(source: ClipBenchmarkSource, root: Path) -> SourceSet:
    """The set that the builder makes, split by split; with `lists`, the pictures that they name, in their order.

    No picture that has a file is decoded here; of the others come lossless PNGs. Raises AbsentError when the builder
    cannot make the test split, PipelineError for lists that do not fit the set.
    """
    splits, missing = {}, {}
    words: list[list[str]] = [[], []]
    for name, own in source.splits.items():
        try:
            found, entries = _built(source, own, name, root)
        except AbsentError as error:
            if name == "test":
                raise
            missing[name] = str(error)
            continue
        called = Path(source.lists[name]).stem if source.lists and name in source.lists else own
        folder = None if isinstance(entries, Iterator) else placed(source.root, root)
        splits[name] = SourceSplit(called, folder, entries)
        if name == "test":
            words = [list(getattr(found, kind, None) or []) for kind in ("classes", "templates")]
    place = f"clip_benchmark: {source.dataset} in {placed(source.root, root)}"
    return SourceSet(place, splits, words[0], words[1], missing)


def _built(source: ClipBenchmarkSource, own: str, name: str, root: Path) -> tuple[Any, Iterable[Entry]]:
    folder = placed(source.root, root).absolute()
    listed = placed(source.lists[name], root) if source.lists and name in source.lists else None
    if listed is not None and not listed.is_file():
        raise AbsentError(f"the list {listed} does not exist")
    if not source.download and not folder.is_dir():
        raise AbsentError(f"{folder} does not exist, and `download` is false")
    if source.download and not re.fullmatch(r"[\w./+-]+", str(folder), re.ASCII):
        raise AbsentError(
            f"clip-benchmark downloads by a shell, and {str(folder)!r} has more than letters, digits and . / + - _: "
            "give prepare_dataset.root another name, or fetch the set yourself and set `download: false`"
        )
    found = _build(source, own, folder)
    reader = _READERS.get(source.dataset, _loaded if source.dataset in _TAKES_LOADER else None)
    if reader is None:
        if listed:
            raise PipelineError(f"`lists` needs pictures with files of their own, and {source.dataset} has none")
        return found, _encoded(found)
    pictures = list(reader(found))
    if source.dataset in _NO_ORDER:
        pictures.sort()
    if listed:
        pictures = _chosen(pictures, listed)
    paths = below(folder, [path for path, _, _ in pictures], folder)
    return found, [Entry(path, label=p[1], captions=p[2]) for path, p in zip(paths, pictures, strict=True)]


def _build(source: ClipBenchmarkSource, own: str, folder: Path) -> Any:
    """What build_dataset returns. Its downloads print, call programs and may end the interpreter: none gets out."""
    from clip_benchmark.datasets import builder as clip_benchmark_builder  # torchvision, which other kinds do not need

    loader = {"loader": os.fspath} if source.dataset in _TAKES_LOADER else {}
    before = set(_empty_files(folder))
    if source.download:
        folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder), _quiet() as said, _programs(clip_benchmark_builder, source.download):
        try:
            return clip_benchmark_builder.build_dataset(
                source.dataset, root=str(folder), split=_OWN_NAMES.get((source.dataset, own), own), **loader,
                download=source.download, transform=None if loader else _png,
                task=clip_benchmark_builder.get_dataset_default_task(source.dataset),
            )  # fmt: skip
        except (Exception, SystemExit) as error:  # third-party readers and downloads raise nearly anything
            if isinstance(error, OSError) and error.errno in _FULL_DISK:
                raise
            for path in set(_empty_files(folder)) - before:
                path.unlink()  # a failed wget leaves one, and the next run would take it for the file
            reason = " ".join(str(error).split()) or type(error).__name__
            words = f"{reason[:_LONGEST_REASON]} {_last_line(said)}".strip()
            raise AbsentError(f"{source.dataset} ({own}) cannot be made in {folder}: {words}") from error


def _empty_files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if path.is_file() and not path.stat().st_size)


def _alone(folder: Path) -> AbstractContextManager[Any]:
    """Waits for the folder's lock: rows may share a folder and their jobs run at once. None where it is read-only."""
    if not os.access(folder.parent, os.W_OK):
        return nullcontext()
    return FileLock(folder.with_name(f".{folder.name}.lock"))


@contextmanager
def _quiet() -> Iterator[IO[bytes]]:
    """What this process and those that it starts write to the standard streams goes into a temporary file."""
    kept = [(number, os.dup(number)) for number in (1, 2)]
    with tempfile.TemporaryFile() as said:
        text = io.TextIOWrapper(said, encoding="utf-8", errors="replace", write_through=True)
        try:
            for number, _ in kept:
                os.dup2(said.fileno(), number)
            with redirect_stdout(text), redirect_stderr(text):
                yield said
        finally:
            for number, copy in kept:
                os.dup2(copy, number)
                os.close(copy)
            text.detach()


@contextmanager
def _programs(builder: Any, allowed: bool) -> Iterator[None]:
    """The builder calls wget, unzip and kaggle whatever `download` says, and goes on when they fail; here it stops."""
    call = builder.call

    def checked(command: str, **options: Any) -> int:
        if not allowed:
            raise RuntimeError(f"it wants to run `{command.split(' --output')[0]}`, and `download` is false")
        status = int(call(command, **options))
        if status and not command.startswith("which "):
            raise RuntimeError(f"`{command.split(' --output')[0]}` failed")
        return status

    builder.call = checked
    try:
        yield
    finally:
        builder.call = call


def _last_line(said: IO[bytes]) -> str:
    size = os.fstat(said.fileno()).st_size
    lines = os.pread(said.fileno(), 4096, max(0, size - 4096)).decode(errors="replace").split("\n")
    last = next((line.split("\r")[-1].strip() for line in reversed(lines) if line.strip()), "")
    return f"({last[:_LONGEST_REASON]})" if last else ""


def _chosen(pictures: Sequence[Picture], listed: Path) -> list[Picture]:
    """The pictures whose paths end with the lines of a list, in its order; a line begins with a whole name."""
    lines = [line.strip().strip("/") for line in listed.read_text(encoding="utf-8").split("\n") if line.strip()]
    depths = {line.count("/") + 1 for line in lines}
    by_tail: dict[str, list[Picture]] = {}
    for picture in pictures:
        parts = picture[0].split("/")
        for depth in depths:
            by_tail.setdefault("/".join(parts[-depth:]), []).append(picture)
    if strange := [line for line in lines if len(by_tail.get(line, ())) != 1]:
        count = len(by_tail.get(strange[0], ()))
        raise PipelineError(
            f"{listed}: {len(strange)} of {len(lines)} lines do not name one picture of the set; {strange[0]!r} names "
            f"{count}"
        )
    return [by_tail[line][0] for line in lines]


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _encoded(found: Any) -> Iterator[Entry]:
    for row in range(len(found)):
        content, label = found[row]
        if not isinstance(label, int | np.integer):
            raise PipelineError(
                f"clip_benchmark gives a {type(label).__name__} with each picture of this set, and a class is wanted. "
                "Of its retrieval sets flickr30k and mscoco_captions are read; others by captions_csv or karpathy."
            )
        yield Entry(content=content, label=int(label))


def _loaded(found: Any) -> Iterator[Picture]:
    """Sets whose reader takes a loader, which here gives back the path."""
    for row in range(len(found)):
        path, label = found[row]
        yield path, int(label), ()


def _caltech101(found: Any) -> Iterator[Picture]:
    for label, number in zip(found.y, found.index, strict=True):
        yield f"{found.root}/101_ObjectCategories/{found.categories[label]}/image_{number:04d}.jpg", label, ()


def _coco(found: Any) -> Iterator[Picture]:
    for number in found.ids:
        captions = [note["caption"] for note in found.coco.loadAnns(found.coco.getAnnIds(number))]
        yield f"{found.root}/{found.coco.loadImgs(number)[0]['file_name']}", -1, captions


# Readers that keep a list of files but decode what is asked for.
_READERS: dict[str, Callable[[Any], Iterable[Picture]]] = {
    "caltech101": _caltech101,
    "flickr30k": lambda found: ((f"{found.root}/{name}", -1, captions) for name, captions in found.data),
    "gtsrb": lambda found: ((str(path), int(label), ()) for path, label in found._samples),
    "mscoco_captions": _coco,
    "pets": lambda found: ((str(p), int(label), ()) for p, label in zip(found._images, found._labels, strict=True)),
}
