"""The benchmark of manifests does what it says, on few rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from tests.benchmarks import manifest


def test_every_case_runs_and_gives_seconds_and_bytes(tmp_path: Path) -> None:
    for name, case in manifest.CASES.items():
        found = manifest._measured(case, 5000, tmp_path)
        assert all(seconds >= 0 for seconds in found["seconds"].values()), name
        assert found["bytes"]["peak"] >= found["bytes"]["imports"] > 0
    rows = pq.read_metadata(tmp_path / "pairs.parquet").num_rows
    assert rows == 5000 - 5000 // 50  # one row in fifty is a pair that came before
    assert (tmp_path / "pairs.csv").is_file()
