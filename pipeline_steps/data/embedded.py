"""The bundled pictures as a list of URLs to be: what is served, what each caption is, and what goes wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.file_server import FAULTS, ServedFile

_COLUMNS = ("id", "image", "sha256", "title", "tags", "split")


def read_embedded(path: Path, split: str, fault_fraction: float) -> tuple[list[ServedFile], list[str]]:
    """The pictures of one split, faults assigned, and their captions, in the file's order.

    Raises PipelineError for a file of another form and for a split that it does not have.
    """
    try:
        table = pq.read_table(path, columns=list(_COLUMNS))
    except (OSError, pa.ArrowInvalid) as error:
        raise PipelineError(
            f"{path} cannot be read as the bundled pictures ({' '.join(str(error).split())}); wanted is a parquet file "
            f"with the columns {', '.join(_COLUMNS)}. Check download_images.embedded_parquet, or restore the file."
        ) from error
    rows = [row for row in table.to_pylist() if row["split"] == split]
    if not rows:
        present = ", ".join(sorted(set(table["split"].to_pylist()))) or "no row at all"
        raise PipelineError(f"download_images.embedded_split = {split!r}: {path} has {present}; set one of those")
    faulty = choose_faulty([f"{row['id']}\n{row['sha256']}" for row in rows], fault_fraction)
    files = [
        ServedFile(row["image"], FAULTS[faulty[number] % len(FAULTS)] if number in faulty else None)
        for number, row in enumerate(rows)
    ]
    return files, [caption_of(row["title"], row["tags"] or ()) for row in rows]


def caption_of(title: str | None, tags: Sequence[str]) -> str:
    """The title, then the tags that the title does not contain (in any case), joined by ", "; one line of text."""
    head = " ".join((title or "").split())
    parts = [head] + [" ".join(tag.split()) for tag in tags]
    return ", ".join(
        part for place, part in enumerate(parts) if part and (place == 0 or part.lower() not in head.lower())
    )


def choose_faulty(contents: Sequence[str], fraction: float) -> dict[int, int]:
    """Exactly round(fraction * n) of n rows, by the hash of their content: row number -> its place among the chosen."""
    ranked = sorted(range(len(contents)), key=lambda row: hashlib.sha256(f"fault\n{contents[row]}".encode()).digest())
    return {row: place for place, row in enumerate(ranked[: round(fraction * len(contents))])}
