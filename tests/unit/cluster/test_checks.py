from __future__ import annotations

import pytest

from pipeline_steps.cluster.checks import controller, minutes_of


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("30", 30), ("30:00", 30), ("02:30:00", 150), ("2-00:00:00", 2880), ("2-12:30", 3630), ("1-06", 1800),
     ("UNLIMITED", None)],
)  # fmt: skip
def test_times_of_slurm_are_minutes(text: str, minutes: int | None) -> None:
    assert minutes_of(text) == minutes


def test_without_slurm_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = controller()
    assert found.failed
    assert "run this on a login node" in (found.remedy or "")
