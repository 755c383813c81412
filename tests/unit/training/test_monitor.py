from __future__ import annotations

import pytest
import torch

from pipeline_steps.training.monitor import ForgetSetMonitor

TRUTH = torch.tensor([True, False, True, False, False, True])


def test_precision_recall_and_base_rate_of_one_batch() -> None:
    found = ForgetSetMonitor(TRUTH).metrics(torch.tensor([0, 1, 2, 5]), torch.tensor([True, True, False, False]))
    assert found == {
        "forget_set/base_rate": 0.75,
        "forget_set/precision": 0.5,
        "forget_set/recall": pytest.approx(1 / 3),
    }


def test_what_has_no_meaning_is_left_out() -> None:
    monitor = ForgetSetMonitor(TRUTH)
    assert monitor.metrics(torch.tensor([1, 3]), torch.tensor([False, False])) == {"forget_set/base_rate": 0}
    assert "forget_set/recall" not in monitor.metrics(torch.tensor([1, 3]), torch.tensor([True, False]))
