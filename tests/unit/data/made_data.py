"""Small real pictures, a bundled parquet, an img2dataset folder and settings, made for tests."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image, ImageDraw

from pipeline_steps.core.config import merged
from pipeline_steps.data.pair_source import FilePairs, PairSource

CONFIG = Path(__file__).parents[3] / "config" / "config.yaml"


_FORMS = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".avif": "AVIF", ".jp2": "JPEG2000"}


def picture_bytes(number: int, size: tuple[int, int] = (24, 20), form: str = "WEBP") -> bytes:
    """A picture whose content depends on `number` alone."""
    image = Image.new("RGB", size)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, *size), fill=(number * 37 % 256, number * 91 % 256, number % 256))
    draw.ellipse((2, 2, 4 + number % 16, 18), fill=(255 - number % 256, number * 53 % 256, 7))
    stream = io.BytesIO()
    image.save(stream, form, lossless=True) if form == "WEBP" else image.save(stream, form)
    return stream.getvalue()


def many_scans(scans: int) -> bytes:
    """A progressive JPEG of so many scans: the last one of a picture again and again."""
    stream = io.BytesIO()
    Image.effect_noise((16, 16), 80).save(stream, "JPEG", progressive=True)
    content = stream.getvalue()
    last = content.rindex(b"\xff\xda")
    own = content.count(b"\xff\xda")
    return content[:last] + content[last:-2] * (scans - own + 1) + content[-2:]


def write_picture(path: Path, number: int, size: tuple[int, int] = (24, 20)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture_bytes(number, size, _FORMS[path.suffix]))
    return path


def write_embedded(path: Path, count: int, split: str = "train") -> Path:
    rows = [
        {
            "id": f"group/picture_{number:03d}",
            "image": picture_bytes(number),
            "sha256": f"{number:064x}",
            "title": f"Title {number}",
            "tags": ["tag", f"title {number}"],
            "split": split,
        }
        for number in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_shard(folder: Path, shard: str, rows: Sequence[Mapping[str, Any]], suffix: str = ".webp") -> None:
    """A finished shard of img2dataset's form: `rows` with key, caption, status, and number for the picture drawn."""
    for row in rows:
        if row["status"] == "success" and row.get("number") is not None:
            write_picture(folder / shard / f"{row['key']}{suffix}", row["number"])
            (folder / shard / f"{row['key']}.txt").write_text(row["caption"] or "", encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    columns = {name: [row.get(name) for row in rows] for name in ("key", "caption", "status", "error_message")}
    pq.write_table(
        pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns])), folder / f"{shard}.parquet"
    )
    successes = sum(row["status"] == "success" for row in rows)
    stats = {"count": len(rows), "successes": successes}
    (folder / f"{shard}_stats.json").write_text(json.dumps(stats), encoding="utf-8")


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """A tar shard with these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def sample(number: int, caption: str | None = None, *, form: str = "webp") -> list[tuple[str, bytes]]:
    """The members of one pair in a shard: picture and caption."""
    text = f"caption {number}" if caption is None else caption
    picture = picture_bytes(number, form={"jpg": "JPEG"}.get(form, form.upper()))
    return [(f"{number:09d}.{form}", picture), (f"{number:09d}.txt", text.encode())]


def write_scan(folder: Path, split: str, ids: Sequence[str], captions: Sequence[str], names: Sequence[str]) -> Path:
    """SCAN's split files in NPC's layout, with a picture under each of `names`."""
    lists = folder / "annotations" / "scan_split"
    lists.mkdir(parents=True, exist_ok=True)
    for part, lines in (("ids", ids), ("caps", captions)):
        (lists / f"{split}_{part}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    for name in names:
        write_picture(folder / "images" / name, sum(map(ord, name)))
    return folder


def read_files(source: PairSource) -> list[tuple[str, str]]:
    """Path and caption of every row of a source of files."""
    assert isinstance(source, FilePairs)
    return [tuple(row.values()) for batch in source.batches for row in batch.to_pylist()]


def section(name: str, **changes: Any) -> dict[str, Any]:
    """One section of config/config.yaml with some keys changed, as `--settings` and `load_section` take it."""
    settings = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))[name]
    unknown = set(changes) - set(settings)
    assert not unknown, f"no such keys: {unknown}"
    return {name: merged(settings, changes)}


def gone(process_id: int, within_seconds: float = 10.0) -> bool:
    """Whether a process ends in time; one that only waits to be reaped has ended."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(process_id).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False
