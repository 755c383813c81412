"""What is asked of Slurm. With a real one it is tested in tests/workflow/test_slurm_faults.py."""

from __future__ import annotations

import logging

import pytest

from pipeline_steps.core.slurm import job_prefix, requeue, wait_for_left_jobs


def test_outside_slurm_nothing_is_requeued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert requeue() is False


def test_where_slurm_does_not_answer_nothing_is_requeued_and_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", "")
    logger = logging.getLogger("pipeline_steps")
    logger.propagate = True
    with caplog.at_level(logging.ERROR, logger="pipeline_steps"):
        assert requeue() is False
    assert "squeue --noheader --format=%T --jobs 7 failed" in caplog.text


def test_without_slurm_no_job_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    said: list[str] = []
    wait_for_left_jobs("mine", said.append, seconds=0.01)
    assert said == []


@pytest.mark.parametrize(
    ("experiment", "prefix"), [("cc3m_vitb16", "cc3m_vitb16"), ("a.b", "a-b"), ("x" * 60, "x" * 50)]
)
def test_job_names_begin_with_the_experiment(experiment: str, prefix: str) -> None:
    assert job_prefix(experiment) == prefix
