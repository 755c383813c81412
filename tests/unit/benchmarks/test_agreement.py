"""The comparison with clip_benchmark on real pictures, where a developer has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline_steps.models.clip import save_clip
from tests.benchmarks.agreement import FILES, compare
from tests.unit.models.architectures import make

VARIABLE = "EVALUATION_DATA"


@pytest.mark.skipif(
    VARIABLE not in os.environ,
    reason=f"set {VARIABLE} to a folder with {', '.join(FILES.values())} (tests/benchmarks/agreement.py)",
)
def test_cifar10_and_tiny_imagenet_have_clip_benchmarks_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))
    save_clip(tmp_path / "checkpoint", make("clip", tmp_path))
    lines = compare(Path(os.environ[VARIABLE]), tmp_path / "checkpoint", tmp_path / "work", pictures=1000)
    assert {line[0] for line in lines} == set(FILES)
    assert [line[1] for line in lines] == [1000] * 6
    for name, _, measure, ours, theirs, _ in lines:
        assert ours == pytest.approx(theirs, abs=1e-4), (name, measure)
