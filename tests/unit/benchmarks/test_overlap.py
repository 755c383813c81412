"""The benchmark of the search for near copies finds the copies that it made."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.benchmarks.overlap import DISTANCES, measure, near_copies
from tests.unit.data.made_data import picture_bytes


@pytest.mark.parametrize("bits", [3, 7])
def test_every_copy_is_found_and_the_search_is_timed(bits: int) -> None:
    measured = measure(20_000, 500, bits, copies=50, threads=1)
    assert measured["found"] == 50
    assert 0 < measured["searched s"] < 60
    assert measured["peak GiB"] > 0


def test_copies_in_real_sets_are_counted_by_distance(tmp_path: Path) -> None:
    contents = [picture_bytes(number) for number in range(8)]
    pq.write_table(pa.table({"image": contents[:6]}), tmp_path / "train.parquet")
    pq.write_table(pa.table({"image": contents[5:]}), tmp_path / "test.parquet")
    counts = near_copies(tmp_path / "train.parquet", tmp_path / "test.parquet")
    assert list(counts) == list(DISTANCES)
    assert 1 <= counts[0] <= counts[8] <= 3
