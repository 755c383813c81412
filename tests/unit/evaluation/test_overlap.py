from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data import manifest
from pipeline_steps.data.database import working_database
from pipeline_steps.evaluation.datasets import prepared
from pipeline_steps.evaluation.datasets.prepared import PreparedSet, read_prepared
from pipeline_steps.evaluation.overlap import (
    create_tables,
    find_overlaps,
    overlap_report,
    take_evaluation,
    take_training,
    write_overlaps,
)
from pipeline_steps.evaluation.scores import EVALUATOR_VERSION
from tests.oracles.overlap import Seen, overlaps

COLUMNS = ["row", "kind", "train_id", "distance", "matches"]


def write_training(path: Path, pictures: Sequence[Seen], validation: Sequence[Seen] = ()) -> Path:
    """A manifest of these pictures."""
    rows = [
        {"id": picture.id, "image_path": "a.png", "sha256": picture.sha256, "width": 4, "height": 4,
         "phash": picture.phash, "caption": "a", "split": split, "is_noisy": False, "clean_caption": "a"}
        for split, some in (("train", pictures), ("validation", validation)) for picture in some
    ]  # fmt: skip
    manifest.write_manifest(path, pa.Table.from_pylist(rows, schema=manifest.SCHEMA), path.parent)
    return path


def write_set(folder: Path, pictures: Sequence[Seen], hole: str | None = None) -> PreparedSet:
    """A prepared set with these test pictures; with none it has the hole."""
    folder.mkdir(parents=True)
    rows = [
        {"image_path": "a.png", "label": 0, "captions": [], "sha256": one.sha256, "phash": one.phash}
        for one in pictures
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=prepared.SCHEMA), folder / "test.parquet")
    split = {"split": "val", "n": len(rows), "label_hash": "0" * 12, "content_hash": "0" * 64}
    facts = {
        "name": folder.name, "title": folder.name, "tasks": ["classification"], "metric": "accuracy", "source": "made",
        "classes": ["a"], "templates": ["{c}"], "folds": None, "evaluator": EVALUATOR_VERSION, "missing": {},
        "hole": hole, "splits": {} if hole else {"test": split},
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(facts))
    return read_prepared(folder)


def _sha256(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def _found(folder: Path, pairs: Path, sets: Sequence[PreparedSet], bits: int) -> tuple[Path, dict[str, object]]:
    output = folder / "overlaps.parquet"
    with working_database(output, threads=1) as database:
        create_tables(database)
        take_training(database, pairs)
        take_evaluation(database, sets)
        find_overlaps(database, max_distance_bits=bits)
        write_overlaps(database, output)
        return output, overlap_report(database, output, sets, max_distance_bits=bits)


def _flipped(value: int, bits: Sequence[int]) -> int:
    """The signed number that differs from `value` in these bits."""
    raw = (value & (2**64 - 1)) ^ sum(1 << bit for bit in bits)
    return raw - 2**64 if raw >> 63 else raw


@st.composite
def _cases(draw: st.DrawFn) -> tuple[list[Seen], list[Seen], int]:
    """Pictures among which copies, near copies at every distance around the limit, and flat ones are many."""
    bits = draw(st.integers(0, 15))
    source = random.Random(draw(st.integers(0, 10**6)))
    centres = [0, *(source.randrange(-(2**63), 2**63) for _ in range(draw(st.integers(1, 4))))]

    def picture(name: str | int) -> Seen:
        distance = source.choice([0, 1, 2, bits, bits, bits + 1, bits + 2, 30])
        phash = _flipped(source.choice(centres), source.sample(range(64), distance))
        return Seen(name, _sha256(source.randrange(30)), phash)

    training = [picture(f"{number:03d}") for number in range(draw(st.integers(1, 40)))]
    return training, [picture(number) for number in range(draw(st.integers(1, 40)))], bits


@settings(max_examples=40, deadline=None)
@given(case=_cases())
def test_it_finds_what_comparing_all_with_all_finds(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[list[Seen], list[Seen], int]
) -> None:
    training, evaluation, bits = case
    folder = tmp_path_factory.mktemp("overlap")
    made = write_set(folder / "made", evaluation)
    output, report = _found(folder, write_training(folder / "pairs.parquet", training), [made], bits)
    table = pq.read_table(output)
    wanted = overlaps(training, evaluation, bits)
    assert [tuple(row[name] for name in COLUMNS) for row in table.to_pylist()] == wanted
    assert set(table["dataset"].to_pylist()) <= {"made"}
    kinds = [row[1] for row in wanted]
    assert report["made"] == {
        "n": len(evaluation), "exact": kinds.count("exact"), "near": kinds.count("near"),
        "degenerate": sum(one.phash == 0 for one in evaluation), "max_distance_bits": bits,
        "training_pairs": len(training), "training_degenerate": sum(one.phash == 0 for one in training),
    }  # fmt: skip


def test_every_pair_at_the_largest_distance_is_found_wherever_its_bits_are(tmp_path: Path) -> None:
    source = random.Random(0)
    start = source.randrange(-(2**63), 2**63)
    for bits in (3, 4, 7, 15):
        flips = [source.sample(range(64), bits) for _ in range(300)]
        flips += [list(range(first, first + bits)) for first in range(64 - bits + 1)]
        evaluation = [Seen(number, _sha256(number), _flipped(start, flip)) for number, flip in enumerate(flips)]
        made = write_set(tmp_path / str(bits), evaluation)
        pairs = write_training(tmp_path / f"{bits}.parquet", [Seen("a", _sha256(-1), start)])
        found = pq.read_table(_found(tmp_path, pairs, [made], bits)[0])
        assert found["distance"].to_pylist() == [bits] * len(evaluation)


def test_the_held_out_split_is_not_compared(tmp_path: Path) -> None:
    one, other = Seen(0, _sha256(0), -5), Seen(1, _sha256(1), -1000)
    pairs = write_training(tmp_path / "p.parquet", [Seen("a", *one[1:])], [Seen("b", *other[1:])])
    output, report = _found(tmp_path, pairs, [write_set(tmp_path / "made", [one, other])], 3)
    assert pq.read_table(output)["row"].to_pylist() == [0]
    assert report["made"]["training_pairs"] == 1  # type: ignore[index]


def test_sets_are_told_apart_and_a_hole_stays_one(tmp_path: Path) -> None:
    picture, other = Seen(0, _sha256(0), -5), Seen(0, _sha256(1), -(2**40))
    pairs = write_training(tmp_path / "p.parquet", [Seen("a", *picture[1:])])
    sets = [write_set(tmp_path / "b", [picture]), write_set(tmp_path / "c", [], "no such place"),
            write_set(tmp_path / "a", [other])]  # fmt: skip
    output, report = _found(tmp_path, pairs, sets, 3)
    assert pq.read_table(output)["dataset"].to_pylist() == ["b"]
    assert list(report) == ["b", "c", "a"]
    assert report["c"] == {"hole": "no such place"}
    assert report["a"]["exact"] == report["a"]["near"] == 0  # type: ignore[index]


def test_no_overlap_leaves_an_empty_table_with_its_columns(tmp_path: Path) -> None:
    pairs = write_training(tmp_path / "p.parquet", [Seen("a", _sha256(1), -1)])
    output, _ = _found(tmp_path, pairs, [write_set(tmp_path / "made", [Seen(0, _sha256(0), -(2**40))])], 3)
    table = pq.read_table(output)
    assert table.num_rows == 0
    assert table.column_names == ["dataset", *COLUMNS]


def test_a_thousand_copies_on_either_side_are_compared_once_and_all_counted(tmp_path: Path) -> None:
    training = [Seen(f"{number:05d}", _sha256(number), -77) for number in range(2000)]
    evaluation = [Seen(number, _sha256(-number - 1), -78) for number in range(1000)]
    pairs = write_training(tmp_path / "p.parquet", training)
    output, report = _found(tmp_path, pairs, [write_set(tmp_path / "made", evaluation)], 3)
    table = pq.read_table(output)
    assert set(table["matches"].to_pylist()) == {2000}
    assert set(table["train_id"].to_pylist()) == {"00000"}
    assert report["made"]["near"] == 1000  # type: ignore[index]


def test_hashes_that_are_not_there_are_an_error_that_says_so(tmp_path: Path) -> None:
    pairs = write_training(tmp_path / "p.parquet", [Seen("a", _sha256(1), -1)])
    made = write_set(tmp_path / "made", [Seen(0, _sha256(0), -5)])
    table = pq.read_table(tmp_path / "made" / "test.parquet")
    nothing = pa.array([None], pa.int64())
    pq.write_table(
        table.set_column(table.column_names.index("phash"), "phash", nothing),
        made.splits["test"].folder / "test.parquet",
    )
    with pytest.raises(PipelineError, match="1 of 1 test pictures have no perceptual hash"):
        _found(tmp_path, pairs, [read_prepared(tmp_path / "made")], 3)
    pq.write_table(pq.read_table(pairs).drop_columns(["phash"]), pairs)
    with pytest.raises(PipelineError, match="no column 'phash'"):
        _found(tmp_path, pairs, [made], 3)
