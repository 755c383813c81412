"""Splits written as parquet: every picture decoded once and hashed, and kept in pictures.tar where it needs that."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import joblib
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.parquet_file import WRITTEN
from pipeline_steps.data.perceptual_hash import perceptual_hash
from pipeline_steps.data.picture_limits import MOST_PIXELS, largest_bytes
from pipeline_steps.data.pictures import decode_image
from pipeline_steps.data.progress import progress_bar
from pipeline_steps.evaluation.datasets.prepared import PICTURES, ROOT_KEY, SCHEMA
from pipeline_steps.evaluation.datasets.source import SourceSplit, is_unicode

_MOST_BYTES = largest_bytes(MOST_PIXELS)
_CHUNK = 250
_ROW_GROUP_ROWS = 2**16
_PLACES = SCHEMA.names[:5]
Place = tuple[str, int | None, int | None]


class SplitWriter:
    """Writes the splits of one set into `folder`; pictures without a file of their own go into its pictures.tar.

    `class_count` is None for a set without classes; `captions` says whether its test split must have some.
    """

    def __init__(self, folder: Path, *, class_count: int | None, captions: bool, processes: int) -> None:
        self._folder = folder
        self._captions = captions
        self._class_count = class_count
        self._processes = processes
        self._tar: tarfile.TarFile | None = None
        self._stream: BinaryIO | None = None

    def write(self, name: str, source: SourceSplit) -> dict[str, Any]:
        """Write `<name>.parquet` and return the facts of dataset.json: split, n, label_hash, content_hash.

        Raises PipelineError for a picture that cannot be decoded, a label that no class has, and an empty split.
        """
        places = self._placed(name, source)
        self._check_answers(name, source.split, places)
        if self._stream is not None:
            self._stream.flush()
        content = hashlib.sha256()
        root = str(source.root) if source.root is not None else ""
        schema = SCHEMA.with_metadata({ROOT_KEY: os.fsencode(root)})
        with pq.ParquetWriter(self._folder / f"{name}.parquet", schema, **WRITTEN) as writer:
            for start, hashes in self._measured(name, Path(root) if root else self._folder, places):
                for sha256, _ in hashes:
                    content.update(sha256.encode())
                part = places.slice(start, len(hashes))
                columns = [pa.array([pair[0] for pair in hashes]), pa.array([pair[1] for pair in hashes], pa.int64())]
                writer.write_table(pa.table([*part.columns, *columns], schema=schema))
        return {
            "split": source.split,
            "n": places.num_rows,
            "label_hash": _label_hash(places),
            "content_hash": content.hexdigest(),
        }

    def close(self) -> None:
        """End pictures.tar, if there is one."""
        if self._tar is not None and self._stream is not None:
            self._tar.close()
            self._stream.close()
            self._tar = self._stream = None

    def _placed(self, name: str, source: SourceSplit) -> pa.Table:
        """The split's places, labels and captions, after its bytes have gone into the tar."""
        schema = pa.schema([SCHEMA.field(column) for column in _PLACES])
        tables, rows = [], []
        for number, entry in enumerate(source.entries):
            self._check_label(name, number, entry.label)
            self._check_captions(name, number, entry.captions)
            if (entry.content is None) == (source.root is None):
                raise TypeError("a split's pictures all bring their bytes, or all lie under its root")
            place: Place = (entry.path, entry.offset, entry.size)
            if entry.content is not None:
                place = self._kept(f"{name}/{number:07d}", entry.content)
            rows.append((*place, entry.label, list(entry.captions)))
            if len(rows) == _ROW_GROUP_ROWS:
                tables.append(_table(rows, schema))
                rows = []
        return pa.concat_tables([*tables, _table(rows, schema)]).combine_chunks()

    def _check_answers(self, name: str, split: str, places: pa.Table) -> None:
        has = {"pictures": places.num_rows > 0}
        if self._class_count is not None:
            has["labels"] = has["pictures"] and (pc.max(places["label"]).as_py() or 0) >= 0
        if self._captions and name == "test":
            has["captions"] = (pc.sum(pc.list_value_length(places["captions"])).as_py() or 0) > 0
        if lacking := [what for what, there in has.items() if not there]:
            raise PipelineError(f"the split {name} ({split}) has no {' and no '.join(lacking)}")

    def _check_label(self, name: str, number: int, label: int) -> None:
        if self._class_count is None and label >= 0:
            raise PipelineError(
                f"picture {number} of the split {name} has the label {label}, and the row has no classes: give it "
                "`classes`, or take out where its labels come from"
            )
        if not -1 <= label < (self._class_count or 0):
            raise PipelineError(
                f"picture {number} of the split {name} has the label {label}; allowed: 0 to "
                f"{(self._class_count or 0) - 1}. Check the row's `classes` and which column its labels come from."
            )

    @staticmethod
    def _check_captions(name: str, number: int, captions: Sequence[Any]) -> None:
        for caption in captions:
            if not is_unicode(caption):
                raise PipelineError(
                    f"picture {number} of the split {name} has the caption {caption!r}, which is no Unicode text"
                )

    def _kept(self, member_name: str, content: bytes) -> Place:
        if self._tar is None:
            self._stream = (self._folder / PICTURES).open("wb")
            self._tar = tarfile.open(fileobj=self._stream, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        member = tarfile.TarInfo(member_name)
        member.size = len(content)
        offset = self._tar.offset + tarfile.BLOCKSIZE  # a USTAR header is one block
        self._tar.addfile(member, io.BytesIO(content))
        return PICTURES, offset, len(content)

    def _measured(self, name: str, root: Path, places: pa.Table) -> Iterator[tuple[int, list[tuple[str, int | None]]]]:
        """Start row, and sha256 and perceptual hash (test split) of the pictures from there on, part by part."""
        workers = min(self._processes or joblib.cpu_count(), places.num_rows // _CHUNK // 4 + 1)
        starts = range(0, places.num_rows, _CHUNK)
        jobs = (joblib.delayed(_hashes)(root, _places(places.slice(start, _CHUNK)), name == "test") for start in starts)
        with progress_bar(places.num_rows, f"prepare_dataset {name}", "picture") as bar:
            answers = joblib.Parallel(workers, return_as="generator")(jobs)
            for start, found in zip(starts, answers, strict=True):
                if isinstance(found, _Unreadable):
                    raise PipelineError(f"picture {start + found.row} of the split {name}{found.where} {found.error}")
                yield start, found
                bar.update(len(found))


def _table(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns: list[Any] = list(zip(*rows, strict=True)) if rows else [[] for _ in schema]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema)


def _label_hash(places: pa.Table) -> str:
    """What PreparedSplit says of it."""
    digest = hashlib.sha256(",".join(map(str, places["label"].to_pylist())).encode())
    captions = places["captions"].to_pylist()
    if any(captions):
        digest.update(json.dumps(captions, ensure_ascii=False).encode())
    return digest.hexdigest()[:12]


def _places(part: pa.Table) -> list[Place]:
    return list(zip(*(part[column].to_pylist() for column in _PLACES[:3]), strict=True))


class _Unreadable(NamedTuple):
    row: int
    where: str
    error: str


def _hashes(root: Path, places: Sequence[Place], perceptual: bool) -> list[tuple[str, int | None]] | _Unreadable:
    """sha256 of each picture's bytes and its perceptual hash if wanted; or the first that cannot be decoded."""
    found: list[tuple[str, int | None]] = []
    for row, (path, offset, size) in enumerate(places):
        try:
            content = _content(root / path, offset, size)
            picture = decode_image(content)
        except Exception as error:  # decoders raise nearly anything on damaged bytes; each is this picture's fault
            place = f"{root / path}" if offset is None else f"{root / path}, {size} bytes from {offset} on"
            where = "" if path == PICTURES else f" ({place})"  # its own tar goes with the set
            return _Unreadable(row, where, f"cannot be read ({type(error).__name__}: {error})")
        found.append((hashlib.sha256(content).hexdigest(), perceptual_hash(picture) if perceptual else None))
    return found


def _content(path: Path, offset: int | None, size: int | None) -> bytes:
    if not path.is_file():
        raise ValueError("not a regular file")
    if (size if offset is not None and size is not None else path.stat().st_size) > _MOST_BYTES:
        raise ValueError(f"more than {_MOST_BYTES:,} bytes")
    with path.open("rb", buffering=0) as stream:
        if offset is None or size is None:
            return stream.read()
        return os.pread(stream.fileno(), size, offset)
