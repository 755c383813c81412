"""Pictures per second and core of the training reader, beside Pillow's bare decoder.

    python -m tests.benchmarks.decoding --pictures 400 --short-side 256

The pictures are made here: smooth noise over a gradient, as JPEG, the same ones every time; they lie in files and in a
tar shard, in the page cache. All cases run in turn, in one thread, several times over; the fastest round counts.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from pipeline_steps.data.pairs import EpochRows, PairDataset
from pipeline_steps.data.pictures import PictureReader
from pipeline_steps.data.tar_shards import read_shard
from pipeline_steps.models.clip import create_clip

ASPECT = 4 / 3
CAPTION = "a photo of a small red house by the sea in front of a mountain, seen from the harbour"


@dataclass(frozen=True)
class Material:
    """The made pictures: their bytes, and the rows of a manifest that have them in files and in a shard."""

    contents: list[bytes]
    files: pa.Table
    shard: pa.Table


def main() -> None:
    """Make the pictures, time every case, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--short-side", type=int, default=256, help="of the pictures, in pixels")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEGs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--architecture", default="ViT-B-32", help="whose transform and tokenizer are used")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        material = make_pictures(Path(folder), arguments.pictures, arguments.short_side, arguments.quality)
        cases = make_cases(Path(folder), material, arguments.architecture)
        seconds = best_seconds(cases, arguments.pictures, arguments.rounds)
    kilobytes = sum(map(len, material.contents)) / len(material.contents) / 1000
    bare = seconds["bare Pillow, bytes in memory"]
    print(f"{arguments.pictures} JPEGs, short side {arguments.short_side} px, about {kilobytes:.0f} kB; one thread.\n")
    print("| case | pictures/s | ms a picture | rate over the bare decoder's |")
    print("| --- | ---: | ---: | ---: |")
    for name, total in seconds.items():
        each = total / arguments.pictures
        print(f"| {name} | {1 / each:,.0f} | {1000 * each:.2f} | {bare / total:.2f} |")


def make_pictures(folder: Path, count: int, short_side: int, quality: int) -> Material:
    """`count` JPEGs as files and as a webdataset shard in `folder`."""
    contents = [_jpeg(number, short_side, quality) for number in range(count)]
    with tarfile.open(folder / "0.tar", "w") as tar:
        for number, content in enumerate(contents):
            (folder / f"{number:06d}.jpg").write_bytes(content)
            for name, body in ((f"{number:06d}.jpg", content), (f"{number:06d}.txt", CAPTION.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))
    samples, broken = read_shard(folder / "0.tar", "caption", 10**8)
    assert len(samples) == count
    assert not broken
    captions = pa.array([CAPTION] * count)
    nothing = pa.nulls(count, pa.int64())
    files = {"image_path": [f"{number:06d}.jpg" for number in range(count)], "image_offset": nothing}
    places = {"image_offset": [one.offset for one in samples], "image_bytes": [one.size for one in samples]}
    return Material(
        contents,
        pa.table(files | {"image_bytes": nothing, "caption": captions}),
        pa.table({"image_path": ["0.tar"] * count, "caption": captions} | places),
    )


def make_cases(folder: Path, material: Material, architecture: str) -> dict[str, Callable[[int], object]]:
    """What is timed, each a function of a picture's number; each case after the first three adds to one before it."""
    bundle = create_clip(architecture)
    transform = bundle.train_transform(0.9)
    reader = PictureReader(folder)
    shard = [material.shard[name].to_pylist() for name in ("image_path", "image_offset", "image_bytes")]
    names = material.files["image_path"].to_pylist()
    decoded = [_bare(content) for content in material.contents[:16]]
    readers = (reader, transform, bundle.tokenizer, 0)
    from_files, from_shard = PairDataset(material.files, *readers), PairDataset(material.shard, *readers)

    def one(number: int) -> EpochRows:
        return EpochRows(0, [number])

    return {
        "bare Pillow, bytes in memory": lambda number: _bare(material.contents[number]),
        "our reader, files": lambda number: reader.read(names[number]),
        "our reader, tar shard": lambda number: reader.read(*(column[number] for column in shard)),
        "the training transform alone": lambda number: transform(decoded[number % 16]),
        "the tokenizer alone": lambda number: bundle.tokenizer([f"{number} {CAPTION}"]),
        "a pair of the data set, files (read, transform, tokens)": lambda number: from_files.batch(one(number)),
        "a pair of the data set, tar shard": lambda number: from_shard.batch(one(number)),
        "for comparison: Pillow with draft() to 224 px": lambda number: _bare(material.contents[number], draft=224),
    }


def best_seconds(cases: dict[str, Callable[[int], object]], count: int, rounds: int) -> dict[str, float]:
    """The fastest of so many rounds over all pictures, of each case; the rounds of the cases alternate."""
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(rounds):
        for name, case in cases.items():
            started = time.perf_counter()
            for number in range(count):
                case(number)
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def _bare(content: bytes, draft: int | None = None) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    if draft is not None:
        image.draft("RGB", (draft, draft))
    image.load()
    return image


def _jpeg(number: int, short_side: int, quality: int) -> bytes:
    generator = np.random.default_rng(number)
    size = (round(short_side * ASPECT), short_side)
    gradient = np.linspace(0, 255, size[0])[None, :, None] * generator.random(3) + np.zeros((short_side, 1, 3))
    pixels = gradient * 0.5
    for cells, share in ((8, 0.25), (64, 0.2), (size[0] // 2, 0.1)):
        noise = generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        pixels += share * np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), dtype=float)
    stream = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


if __name__ == "__main__":
    main()
