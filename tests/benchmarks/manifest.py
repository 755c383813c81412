"""Time and peak memory of manifests of N rows: building, reading for training, shuffling an epoch.

    python -m tests.benchmarks.manifest --rows 1000000 15000000 --folder FOLDER

Pictures are not read: rows are generated with a made-up sha256 and a place in a made-up tar shard, one in ten has
the picture of the row before it, and one in fifty its caption too. All else is what build_manifest and training
do. Every case is a process of its own, whose peak memory is what the kernel counted (its imports beside it).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import yaml

CONFIG = Path(__file__).resolve().parents[2] / "config" / "config.yaml"
AT_ONCE = 20_000
SHARD_ROWS = 10_000
PICTURE_BYTES = 40_960
BATCH = 2048
Stages = dict[str, float]


def main() -> None:
    """Run every case in a child process and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--folder", type=Path, help="where the files go (about 0.9 GiB a million rows); default: /tmp")
    parser.add_argument("--case", choices=list(CASES), help="one case in this process, as JSON (for the children)")
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(_measured(CASES[arguments.case], arguments.rows[0], arguments.folder)))
        return
    print("| rows | case | seconds | peak memory, GiB | of it imports, GiB | peak of the work folder, GiB |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            for case in CASES:
                _print_rows(rows, case, _child(case, rows, Path(folder)))


def _child(case: str, rows: int, folder: Path) -> dict[str, Stages]:
    module = [sys.executable, "-m", "tests.benchmarks.manifest"]
    options = ["--case", case, "--rows", str(rows), "--folder", str(folder)]
    found: dict[str, Stages] = json.loads(subprocess.check_output([*module, *options], text=True))
    return found


def _print_rows(rows: int, case: str, found: dict[str, Stages]) -> None:
    gib = {name: f"{value / 2**30:.2f}" for name, value in found["bytes"].items()}
    total = sum(found["seconds"].values())
    disk = gib["disk"] if case == "build" else ""
    print(f"| {rows:,} | **{case}** | {total:.1f} | {gib['peak']} | {gib['imports']} | {disk} |")
    for name, seconds in found["seconds"].items() if len(found["seconds"]) > 1 else ():
        print(f"| | {name} | {seconds:.1f} | | | |", flush=True)


def _measured(case: Callable[[int, Path], Iterator[str]], rows: int, folder: Path) -> dict[str, Stages]:
    steps, seconds = case(rows, folder), dict[str, float]()
    next(steps)
    imports = _peak_bytes()
    done, disk = threading.Event(), [0]
    watcher = threading.Thread(target=_watch_folder, args=(folder, disk, done))
    watcher.start()
    started = time.perf_counter()
    for name in steps:
        now = time.perf_counter()
        seconds[name], started = now - started, now
    done.set()
    watcher.join()
    return {"seconds": seconds, "bytes": {"peak": _peak_bytes(), "imports": imports, "disk": disk[0]}}


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _watch_folder(folder: Path, most: list[int], done: threading.Event) -> None:
    while not done.wait(0.5):
        sizes = 0
        for path in folder.rglob("*"):
            try:
                sizes += path.stat().st_size
            except FileNotFoundError:  # the database removes its files as it goes on
                continue
        most[0] = max(most[0], sizes)


def _build(rows: int, folder: Path) -> Iterator[str]:
    """What build_manifest does after its pictures are checked."""
    from pipeline_steps.core.config import load_section
    from pipeline_steps.core.schema import BuildManifestConfig
    from pipeline_steps.data.assembly import manifest_report, manifest_rows
    from pipeline_steps.data.database import working_database
    from pipeline_steps.data.intake import create_tables
    from pipeline_steps.data.manifest import write_manifest, write_pairs_csv
    from pipeline_steps.data.noise import shuffle_captions
    from pipeline_steps.data.selection import select_pairs

    raw = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    settings = load_section({"build_manifest": raw["build_manifest"]}, "build_manifest", BuildManifestConfig)
    pairs = folder / "pairs.parquet"
    yield "imports"
    with working_database(pairs, threads=0) as database:
        create_tables(database)
        _take_in(database, rows, settings.max_caption_characters)
        yield "rows and made-up pictures taken in"
        counts = select_pairs(database, settings)
        yield "filters, duplicates, split"
        chosen = shuffle_captions(database, settings.noise)
        yield "noise"
        manifest_report(database, counts, settings.noise, chosen)
        yield "report"
        write_manifest(pairs, manifest_rows(database), folder)
        yield "sorted and written"
    write_pairs_csv(folder / "pairs.csv", pairs, folder)
    yield "CSV written"


def _take_in(database: object, rows: int, max_characters: int) -> None:
    from duckdb import DuckDBPyConnection

    from pipeline_steps.data.database import insert
    from pipeline_steps.data.intake import PICTURES, ROWS, row_columns

    assert isinstance(database, DuckDBPyConnection)
    for start in range(0, rows, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, rows))
        contents = [number - 1 if number % 10 == 9 else number for number in numbers]
        hashes = [hashlib.sha256(str(content).encode()).hexdigest() for content in contents]
        texts = [f"a photo of {one[:12]} and {one[12:24]} in front of {one[24:40]}, {one[40:60]}" for one in hashes]
        named = [number - 1 if number % 50 == 49 else number for number in numbers]
        captions = [f"{number} {text}" for number, text in zip(named, texts, strict=True)]
        place = {
            "image_path": [f"{number // SHARD_ROWS:05d}.tar" for number in numbers],
            "image_offset": [number % SHARD_ROWS * PICTURE_BYTES for number in numbers],
        }
        size = len(numbers)
        columns = row_columns(start, captions, max_characters) | place | {"image_bytes": [PICTURE_BYTES] * size}
        insert(database, "rows", _table(columns, ROWS))
        phash = [int(one[:15], 16) for one in hashes]
        pixels = {"sha256": hashes, "width": [341] * size, "height": [256] * size, "phash": phash}
        nothing = {"cause": [None] * size, "message": [None] * size}
        insert(database, "pictures", _table(place | pixels | nothing, PICTURES))


def _table(columns: dict[str, object], schema: pa.Schema) -> pa.Table:
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema})


def _read(rows: int, folder: Path) -> Iterator[str]:
    """What a training process holds of the manifest: its columns of the training split."""
    from pipeline_steps.data.manifest import TRAINING_COLUMNS, training_rows
    from pipeline_steps.data.pairs import PairDataset
    from pipeline_steps.data.pictures import PictureReader

    yield "imports"
    table = training_rows(folder / "pairs.parquet", None, TRAINING_COLUMNS)
    dataset = PairDataset(table, PictureReader(folder), lambda image: image, lambda texts: texts, 0)  # type: ignore[arg-type,return-value]
    assert 0 < len(dataset) <= rows
    yield "read"


def _shuffle(rows: int, folder: Path) -> Iterator[str]:
    """The order of one epoch, every batch of it."""
    from pipeline_steps.data.pairs import EpochBatches

    yield "imports"
    batches = EpochBatches(rows, BATCH, 0, epochs=1)
    assert sum(len(batch.rows) for batch in batches) == rows // BATCH * BATCH
    yield "shuffled"


CASES = {"build": _build, "read for training": _read, "shuffle of an epoch": _shuffle}

if __name__ == "__main__":
    main()
