"""Seconds and peak memory of the search for near copies, over made-up hashes.

    python -m tests.benchmarks.overlap --training 15000000 --evaluation 250000 --bits 3

As many evaluation hashes as `--copies` are training hashes with `--bits` bits flipped; all of these must be found.

    python -m tests.benchmarks.overlap --data FOLDER

counts instead the test pictures of cifar10/ and tiny_imagenet/ in FOLDER (parquet, column image) that have a training
picture within 0, 2, 4 ... bits, comparing all with all.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection
from numpy.typing import NDArray

from pipeline_steps.data.database import working_database
from pipeline_steps.data.perceptual_hash import FLAT, perceptual_hash
from pipeline_steps.data.pictures import decode_image
from pipeline_steps.evaluation.overlap import create_tables, find_overlaps, write_overlaps

AT_ONCE = 1_000_000
DISTANCES = (0, 2, 4, 6, 8)
PICTURES = {
    "CIFAR-10": ("cifar10/train", "cifar10/test"),
    "Tiny-ImageNet": ("tiny_imagenet/train", "tiny_imagenet/val"),
}
_FOUND_AT_LEAST = "SELECT count(*), count(*) FILTER (row < {copies}) FROM read_parquet('{path}')"


def measure(training: int, evaluation: int, bits: int, *, copies: int = 100, threads: int = 0) -> dict[str, float]:
    """Seconds to take in and to search, peak GiB of this process, and the pictures found, of which `copies` are sure.

    Raises RuntimeError when a copy is not found.
    """
    random = np.random.default_rng(0)
    copied = random.integers(-(2**63), 0, copies)
    flips = np.array([sum(1 << int(bit) for bit in random.choice(63, bits, replace=False)) for _ in range(copies)])
    with tempfile.TemporaryDirectory() as folder, working_database(Path(folder) / "o", threads=threads) as database:
        overlaps = Path(folder) / "overlaps.parquet"
        started = time.perf_counter()
        create_tables(database)
        _fill(database, "training", training, copied, random)
        _fill(database, "evaluation", evaluation, copied ^ flips, random)
        taken = time.perf_counter()
        find_overlaps(database, max_distance_bits=bits)
        write_overlaps(database, overlaps)
        ended = time.perf_counter()
        found, sure = database.sql(_FOUND_AT_LEAST.format(copies=copies, path=overlaps)).fetchall()[0]
    if sure < copies:
        raise RuntimeError(f"of {copies} copies {sure} were found")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"taken in s": taken - started, "searched s": ended - taken, "peak GiB": peak, "found": found}


def near_copies(training: Path, test: Path) -> dict[int, int]:
    """How many pictures of `test` have one of `training` within so many bits."""
    seen, asked = _hashes(training), _hashes(test)
    nearest = np.array([int(np.bitwise_count(seen ^ one).min()) for one in asked])
    return {bits: int((nearest <= bits).sum()) for bits in DISTANCES}


def _hashes(path: Path) -> NDArray[np.uint64]:
    """The hashes of the pictures that are not flat."""
    contents = pq.read_table(path, columns=["image"])["image"].to_pylist()
    found = np.array([perceptual_hash(decode_image(content)) for content in contents], dtype=np.int64)
    return found[found != FLAT].view(np.uint64)


def _fill(
    database: DuckDBPyConnection, table: str, total: int, first: NDArray[np.int64], random: np.random.Generator
) -> None:
    """So many pictures that all differ in their bytes, with the hashes `first` and then random ones."""
    for start in range(0, total, AT_ONCE):
        made = random.integers(-(2**63), 0, min(AT_ONCE, total - start))
        if start == 0:
            made[: len(first)] = first
        name = "lower(lpad(to_hex(row), 16, '0')) AS id" if table == "training" else "'made' AS dataset, row"
        image = f"(2 * row + {int(table == 'training')})::UHUGEINT AS image"
        database.register("given", pa.table({"row": np.arange(start, start + len(made)), "phash": made}))
        database.execute(f"INSERT INTO {table} BY NAME SELECT {name}, {image}, phash FROM given")  # noqa: S608
        database.unregister("given")


def main() -> None:
    """Measure one size, or count the copies in real sets, and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--training", type=int, default=1_000_000)
    parser.add_argument("--evaluation", type=int, default=50_000)
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--copies", type=int, default=100)
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    if arguments.data:
        for name, files in PICTURES.items():
            print(name, near_copies(*(arguments.data / f"{file}.parquet" for file in files)))
        return
    found = measure(arguments.training, arguments.evaluation, arguments.bits, copies=arguments.copies)
    for name, value in found.items():
        print(f"{name}: {value:,.2f}")


if __name__ == "__main__":
    main()
