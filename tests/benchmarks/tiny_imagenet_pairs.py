"""Tiny-ImageNet as image-caption pairs: webdataset shards whose captions are made of class names and glosses.

    python -m tests.benchmarks.tiny_imagenet_pairs --data FOLDER --shards data/tiny_imagenet_pairs

FOLDER holds train.parquet (image, label) and classes.parquet (label, names, gloss). A picture's caption is one of its
class's names, in turn, with or without the gloss.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from pathlib import Path

import pyarrow.parquet as pq

PER_SHARD = 5000


def write_pairs(data: Path, shards: Path) -> int:
    """Write the shards; returns how many pairs they hold."""
    classes = {row["label"]: row for row in pq.read_table(data / "classes.parquet").to_pylist()}
    table = pq.read_table(data / "train.parquet", columns=["image", "label"])
    shards.mkdir(parents=True, exist_ok=True)
    for start in range(0, table.num_rows, PER_SHARD):
        with tarfile.open(shards / f"{start // PER_SHARD:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as shard:
            for number, row in enumerate(table.slice(start, PER_SHARD).to_pylist(), start):
                _add(shard, f"{number:07d}.jpg", row["image"])
                _add(shard, f"{number:07d}.txt", caption(classes[row["label"]], number).encode())
    return int(table.num_rows)


def caption(row: dict[str, str], number: int) -> str:
    """One of the class's names, by turns alone, as a photo, and with what WordNet says of it."""
    names = [name.strip() for name in row["names"].split(",")]
    name = names[number % len(names)]
    return (name, f"a photo of a {name}", f"{name}, {row['gloss']}")[number // 7 % 3]


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


def main() -> None:
    """Write the shards and say how many pairs they hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of train.parquet and classes.parquet")
    parser.add_argument("--shards", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    print(f"{write_pairs(arguments.data, arguments.shards):,} pairs in {arguments.shards}")


if __name__ == "__main__":
    main()
