from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.metrics import roc_auc_score

from pipeline_steps.training.monitor import ForgetSetMonitor

TRUTH = torch.tensor([True, False, True, False, False, True])


def test_precision_recall_base_rate_and_auroc_of_one_batch() -> None:
    found = ForgetSetMonitor(TRUTH).metrics(
        torch.tensor([0, 1, 2, 5]), torch.tensor([True, True, False, False]), torch.tensor([0.1, 0.2, 0.15, 0.9])
    )
    assert found == {
        "forget_set/base_rate": 0.75,
        "forget_set/precision": 0.5,
        "forget_set/recall": pytest.approx(1 / 3),
        "forget_set/auroc": pytest.approx(2 / 3),
    }


def test_what_has_no_meaning_is_left_out() -> None:
    monitor, nobody = ForgetSetMonitor(TRUTH), torch.tensor([False, False])
    rows, confidence = torch.tensor([1, 3]), torch.tensor([0.2, 0.3])
    assert monitor.metrics(rows, nobody, confidence) == {"forget_set/base_rate": 0}
    assert "forget_set/recall" not in monitor.metrics(rows, ~nobody, confidence)
    assert "forget_set/auroc" not in monitor.metrics(torch.tensor([0, 1]), ~nobody, None)
    assert ForgetSetMonitor(~TRUTH & TRUTH).metrics(rows, ~nobody, confidence) == {}
    assert ForgetSetMonitor(TRUTH).epoch_metrics() == {}


def test_auroc_of_a_batch_counts_ties_by_half_as_scikit_learn_does() -> None:
    truth, confidence = _noise(400, seed=1)
    confidence = (confidence * 20).round() / 20
    found = ForgetSetMonitor(truth).metrics(torch.arange(400), confidence < 0.3, confidence)
    assert found["forget_set/auroc"] == pytest.approx(roc_auc_score(truth, 1 - confidence.double()), abs=1e-12)


def test_a_confidence_that_overflowed_counts_as_the_highest() -> None:
    confidence = torch.tensor([float("nan"), 1.0, 0.0])
    found = ForgetSetMonitor(torch.tensor([False, True, True])).metrics(
        torch.arange(3), torch.tensor([False, False, True]), confidence
    )
    assert found["forget_set/auroc"] == pytest.approx(0.75)


@pytest.mark.parametrize("spread", [1.0, 20.0], ids=["near one half", "near 0 and 1"])
def test_an_epoch_is_pooled_over_its_batches_exactly_but_for_the_histograms_bins(spread: float) -> None:
    truth, confidence = _noise(4096, seed=2, spread=spread)
    picked = confidence < 0.2
    monitor = ForgetSetMonitor(truth)
    for rows in torch.randperm(4096, generator=torch.Generator().manual_seed(0)).split(256):
        monitor.metrics(rows, picked[rows], confidence[rows])
    found = monitor.epoch_metrics()
    hits = int((picked & truth).sum())
    assert found["forget_set/epoch_base_rate"] == truth.float().mean().item()
    assert found["forget_set/epoch_precision"] == hits / int(picked.sum())
    assert found["forget_set/epoch_recall"] == hits / int(truth.sum())
    exact = roc_auc_score(truth, -confidence.double())
    assert 0.55 < exact < 0.95
    assert found["forget_set/epoch_auroc"] == pytest.approx(exact, abs=2e-4)
    assert monitor.epoch_metrics() == {}


def test_a_resume_in_the_middle_of_an_epoch_ends_in_the_same_numbers(tmp_path: Path) -> None:
    truth, confidence = _noise(1024, seed=3)
    batches, picked = torch.arange(1024).split(128), confidence < 0.2
    whole, first, second = (ForgetSetMonitor(truth) for _ in range(3))
    for index, rows in enumerate(batches):
        whole.metrics(rows, picked[rows], confidence[rows])
        (first if index < 3 else second).metrics(rows, picked[rows], confidence[rows])
        if index == 2:
            torch.save(first.state(), tmp_path / "state.pt")
            second.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.epoch_metrics() == whole.epoch_metrics()


def test_the_state_has_one_size_for_any_number_of_pairs_and_is_a_copy() -> None:
    truth, confidence = _noise(4096, seed=4)
    monitor = ForgetSetMonitor(truth)
    before = monitor.state()
    monitor.metrics(torch.arange(4096), confidence < 0.2, confidence)
    after = monitor.state()
    assert {name: tensor.shape for name, tensor in before.items()} == {name: t.shape for name, t in after.items()}
    assert sum(tensor.numel() * tensor.element_size() for tensor in after.values()) < 300_000
    assert before["histogram"].sum() == 0
    assert after["histogram"].sum() == 4096


def _noise(size: int, seed: int, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """A third noisy; noisy pairs have lower confidence on the whole, by one standard deviation of its log-odds."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(size, generator=generator) < 1 / 3
    log_odds = spread * (torch.randn(size, generator=generator) - truth.float())
    return truth, torch.sigmoid(log_odds.clamp(max=12))
