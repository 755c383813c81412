"""The epoch that is kept is the best on held-out pairs, and a resume knows it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.manifest import TRAINING_COLUMNS, image_root, validation_rows
from pipeline_steps.data.pairs import PairDataset
from pipeline_steps.data.pictures import PictureReader
from pipeline_steps.methods.continued import Continued
from pipeline_steps.models.clip import create_clip
from pipeline_steps.training.distributed import Processes
from pipeline_steps.training.selection import METRIC, BestEpoch
from tests.unit.training import tiny

ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture
def best(tmp_path: Path, pairs: Path) -> BestEpoch:
    bundle = create_clip(tiny.architecture(tmp_path))
    rows = validation_rows(pairs, TRAINING_COLUMNS)
    held_out = PairDataset(rows, PictureReader(image_root(pairs)), bundle.preprocess, bundle.tokenizer, 0)
    return BestEpoch(held_out, tiny.settings(batch_size=3))


def test_the_best_epoch_comes_back_whatever_came_later(best: BestEpoch, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = tiny.learner(tiny.settings(), Continued(), ALONE, words=tiny.TOKENIZERS_WORDS)
    scores = iter([0.2, 0.6, 0.6, 0.1])
    monkeypatch.setattr(BestEpoch, "_recall", lambda self, learner: next(scores))
    for epoch in range(4):
        with torch.no_grad():
            learner.model.logit_scale.fill_(epoch)
        best.consider(learner, epoch)
    best.restore(learner)
    assert learner.model.logit_scale.item() == 1


def test_the_score_is_in_batch_recall_and_leaves_the_model_in_training_mode(best: BestEpoch) -> None:
    learner = tiny.learner(tiny.settings(), Continued(), ALONE, words=tiny.TOKENIZERS_WORDS)
    score = best.consider(learner, 0)[METRIC]
    # four held-out pairs in batches of three: one batch, six queries
    assert score * 6 == pytest.approx(round(score * 6))
    assert 0 <= score <= 1
    assert learner.model.training


def test_a_single_pair_is_too_few(best: BestEpoch, pairs: Path) -> None:
    one = PairDataset(
        validation_rows(pairs, TRAINING_COLUMNS).slice(0, 1), PictureReader(pairs.parent), torch.tensor, torch.tensor, 0
    )
    with pytest.raises(PipelineError, match="at least two validation pairs"):
        BestEpoch(one, tiny.settings())


def test_the_state_holds_the_best_weights(tmp_path: Path, best: BestEpoch) -> None:
    learner = tiny.learner(tiny.settings(), Continued(), ALONE, words=tiny.TOKENIZERS_WORDS)
    best.consider(learner, 0)
    kept = learner.model.logit_scale.item()
    stream = tmp_path / "state.pt"
    torch.save(best.state(), stream)
    best.load_state(torch.load(stream, weights_only=True))
    with torch.no_grad():
        learner.model.logit_scale.fill_(7)
    best.restore(learner)
    assert learner.model.logit_scale.item() == kept
