"""What is made of a job's answer. Real jobs are in tests/workflow/test_check_cluster.py."""

from __future__ import annotations

from typing import Any

from pipeline_steps.cluster.jobs import judged

TOLD: dict[str, Any] = {
    "host": "n1", "python": "3.11.7", "token": "secret", "torch": "2.12.1", "gpus": 1, "gpu_names": ["A100"],
    "cuda_visible_devices": "0",
}  # fmt: skip


def test_all_is_well() -> None:
    found = judged("a job on gpu", TOLD, "secret", gpu=True)
    assert [finding.remedy for finding in found] == [None, None]
    assert found[1].found == "A100"


def test_a_folder_that_is_not_shared_fails_with_its_remedy() -> None:
    (found,) = judged("a job on gpu", TOLD | {"token": None}, "secret", gpu=True)
    assert found.failed
    assert "not the file that was written here" in found.found
    assert "results_dir" in (found.remedy or "")


def test_an_environment_that_is_not_there_fails_with_its_remedy() -> None:
    (found,) = judged("a job on cpu", {"host": "n1", "error": "ModuleNotFoundError: torch"}, "secret", gpu=False)
    assert found.failed
    assert "make setup" in (found.remedy or "")


def test_a_gpu_that_torch_does_not_see_fails() -> None:
    found = judged("a job on gpu", TOLD | {"gpus": 0, "gpu_names": []}, "secret", gpu=True)
    assert [finding.failed for finding in found] == [False, True]
