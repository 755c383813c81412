"""The loop on real pictures with a tiny open_clip model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from msgspec.structs import replace
from PIL import Image
from torch.amp.grad_scaler import GradScaler

from pipeline_steps.core.config import load_section, read_yaml, resolve
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import LearnPromptConfig, NegativeTextConfig, TrainingConfig, UnlearnConfig
from pipeline_steps.data.negative_text import NegativeText
from pipeline_steps.data.pairs import PairDataset
from pipeline_steps.data.pictures import PictureReader
from pipeline_steps.methods.base import Embeddings, LossOutput, Objective
from pipeline_steps.methods.continued import Continued
from pipeline_steps.methods.ncu.objectives import HardestNegative, Unlearning
from pipeline_steps.models.clip import create_clip
from pipeline_steps.models.freeze import apply_freeze
from pipeline_steps.models.prompt import new_prompt
from pipeline_steps.training.distributed import Processes
from pipeline_steps.training.history import HistoryRow
from pipeline_steps.training.loop import Phase, fit
from pipeline_steps.training.monitor import ForgetSetMonitor
from pipeline_steps.training.optimizer import build_optimizer
from pipeline_steps.training.state import load_state
from pipeline_steps.training.update import Learner
from tests.unit.paths import CONFIG, REPOSITORY
from tests.unit.training import tiny

RAW = resolve(read_yaml([CONFIG]))
PAIRS = 40
ALONE = Processes(0, 1, torch.device("cpu"))
NEGATIVE_TEXT = load_section(RAW, "unlearn.negative_text", NegativeTextConfig)
TRAINING = replace(
    load_section(RAW, "train_reference.training", TrainingConfig),
    epochs=3, batch_size=16, warmup_fraction=0.1, workers=0,
)  # fmt: skip


class StopError(Exception):
    """An interruption from outside."""


class StopsAt:
    """The contrastive objective, interrupted at its n-th call, or giving NaN there."""

    needs_negatives = False

    def __init__(self, call: int, *, nan: bool = False) -> None:
        self._left, self._nan = call, nan

    def __call__(self, embeddings: Embeddings) -> LossOutput:
        self._left -= 1
        output = Continued()(embeddings)
        if self._left == 0 and self._nan:
            return LossOutput(output.loss * torch.nan, {"retain": 1.0})
        if self._left == 0:
            raise StopError
        return output


Run = Callable[..., tuple[Learner, list[HistoryRow]]]
Outcome = tuple[dict[str, torch.Tensor], list[HistoryRow]]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for row in range(PAIRS):
        Image.fromarray(generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / f"{row}.png")
    return folder


def _architecture(folder: Path) -> str:
    """The smoke test's, which has batch statistics, with few words: the tokenizer's would be most of every state."""
    made = json.loads((REPOSITORY / "config/models/smoke_rn.json").read_text())
    made["text_cfg"]["vocab_size"] = tiny.WORDS
    path = folder / "few_words.json"
    path.write_text(json.dumps(made))
    return str(path)


def _tokens(captions: list[str]) -> torch.Tensor:
    """A start token, the caption's bytes, and the end token, which is the highest."""
    rows = [[tiny.END - 1, *(2 + byte for byte in caption.encode()[:13]), tiny.END] for caption in captions]
    return torch.tensor([row + [0] * (16 - len(row)) for row in rows])


def _train(
    pictures: Path, folder: Path, objective: Objective, settings: TrainingConfig = TRAINING, *, prompt: bool = False,
    fingerprint: str = "mine",
) -> tuple[Learner, list[HistoryRow]]:  # fmt: skip
    nowhere = pa.nulls(PAIRS, pa.int64())
    pairs = pa.table(
        {"image_path": [f"{row}.png" for row in range(PAIRS)], "image_offset": nowhere, "image_bytes": nowhere,
         "caption": [f"number {row}" for row in range(PAIRS)]}
    )  # fmt: skip
    torch.manual_seed(0)
    bundle = create_clip(_architecture(folder))
    apply_freeze(bundle.model, settings.freeze)
    vectors = new_prompt(bundle.model, 3, 0.02, torch.Generator().manual_seed(0)) if prompt else None
    optimizer = build_optimizer(bundle.model, settings, vectors, 1e-3, 0.1)
    negative = NegativeText(pairs["caption"], NEGATIVE_TEXT, 0) if prompt else None
    transform = bundle.train_transform(0.8)
    dataset = PairDataset(pairs, PictureReader(pictures), transform, _tokens, 0, negative)
    scaler = GradScaler("cpu", enabled=False)
    learner = Learner(bundle.model, optimizer, objective, ALONE, scaler, vectors)
    phase = Phase(
        dataset, settings, 0, folder / "state.pt", fingerprint, ForgetSetMonitor(torch.arange(PAIRS) < 10),
        lambda step, metrics: None, "test",
    )  # fmt: skip
    return learner, fit(learner, phase)


@pytest.fixture
def run(pictures: Path, tmp_path: Path) -> Run:
    return partial(_train, pictures, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The weights and history of TRAINING."""
    learner, history = _train(pictures, tmp_path_factory.mktemp("undisturbed"), Continued())
    return _weights(learner), history


def _weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}


def _values(history: list[HistoryRow], name: str) -> list[float]:
    return [value for _, _, key, value in history if key == name]


def _assert_undisturbed(found: tuple[Learner, list[HistoryRow]], undisturbed: Outcome) -> None:
    learner, history = found
    weights, expected = undisturbed
    assert _values(history, "loss") == _values(expected, "loss")
    state = learner.model.state_dict()
    assert state.keys() == weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, state[name]), name


def test_a_run_is_bit_identical_to_its_twin(run: Run, undisturbed: Outcome) -> None:
    _assert_undisturbed(run(Continued()), undisturbed)


def test_a_run_learns(run: Run) -> None:
    _, history = run(Continued(), replace(TRAINING, epochs=8))
    losses = _values(history, "loss")
    assert len(losses) == 8 * (PAIRS // 16)
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert {row[2] for row in history} == {"loss", "lr", "logit_scale", "pairs_per_second", "grad_norm"}


@pytest.mark.parametrize("call", [3, 4, 6])
def test_an_interrupted_run_ends_in_the_weights_of_an_undisturbed_one(
    run: Run, undisturbed: Outcome, tmp_path: Path, call: int
) -> None:
    with pytest.raises(StopError):
        run(StopsAt(call))
    assert (tmp_path / "state.pt").is_file()
    _assert_undisturbed(run(Continued()), undisturbed)


def test_a_state_of_other_settings_is_not_used(run: Run, undisturbed: Outcome, tmp_path: Path) -> None:
    with pytest.raises(StopError):
        run(StopsAt(3), replace(TRAINING, lr=2 * TRAINING.lr), fingerprint="other")
    assert (tmp_path / "state.pt").is_file()
    _assert_undisturbed(run(Continued()), undisturbed)


def test_a_loss_that_is_not_finite_stops_before_the_step_and_keeps_the_last_good_state(
    run: Run, tmp_path: Path
) -> None:
    with pytest.raises(
        PipelineError, match=r"loss is nan \(retain = 1\) at epoch 2, step 3.*last good state is .*state.pt"
    ):
        run(StopsAt(4, nan=True))
    state = load_state(tmp_path / "state.pt", "mine")
    assert state is not None
    assert state["done"] == 2
    assert all(torch.isfinite(tensor).all() for tensor in state["model"].values())


def test_the_logit_scale_never_leaves_its_bounds(run: Run) -> None:
    learner, history = run(Continued(), replace(TRAINING, lr=0.5, epochs=4, grad_clip_norm=None))
    assert learner.model.logit_scale.item() <= math.log(100) + 1e-6
    assert max(_values(history, "logit_scale")) <= 100.001


def test_both_phases_of_ncu_train_what_they_should_and_report_their_terms(run: Run, tmp_path: Path) -> None:
    learn = load_section(RAW, "learn_prompt", LearnPromptConfig)
    start, _ = run(Continued(), replace(learn.training, epochs=0, batch_size=16), prompt=True)
    (tmp_path / "state.pt").unlink(missing_ok=True)
    phase_1, history = run(HardestNegative(learn), replace(learn.training, epochs=2, batch_size=16), prompt=True)
    assert {"loss/separation", "loss/relation", "loss/matching", "forget_set/precision"} <= {row[2] for row in history}
    before, after = _weights(start), _weights(phase_1)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "transformer.resblocks.1.ln_1.weight" in changed
    assert {name for name in changed if name.startswith("visual.")} <= {
        "visual.attnpool.c_proj.weight",
        "visual.attnpool.c_proj.bias",
    }
    assert start.prompt is not None
    assert phase_1.prompt is not None
    assert not torch.equal(start.prompt, phase_1.prompt)
    (tmp_path / "state.pt").unlink()
    unlearn = load_section(RAW, "unlearn", UnlearnConfig)
    phase_2, history = run(Unlearning(unlearn), replace(unlearn.training, epochs=2, batch_size=16), prompt=True)
    names = {row[2] for row in history}
    assert {"loss/realignment", "loss/separation", "transport/iterations", "transport/marginal_error"} <= names
    assert max(_values(history, "transport/marginal_error")) < 1e-4
    assert "visual.conv1.weight" in {name for name in before if not torch.equal(before[name], _weights(phase_2)[name])}


def test_an_objective_without_its_prompt_is_refused(run: Run) -> None:
    with pytest.raises(PipelineError, match="needs negatives and these batches hold no text"):
        run(HardestNegative(load_section(RAW, "learn_prompt", LearnPromptConfig)))


@pytest.mark.parametrize("call", [1, 2, 3, 5])
def test_a_state_of_any_step_is_gone_on_from(run: Run, undisturbed: Outcome, tmp_path: Path, call: int) -> None:
    settings = replace(TRAINING, save_minutes=0.0)
    with pytest.raises(StopError):
        run(StopsAt(call), settings)
    state = load_state(tmp_path / "state.pt", "mine")
    assert (0 if state is None else state["done"]) == call - 1
    _assert_undisturbed(run(Continued(), settings), undisturbed)


def test_batch_statistics_that_would_depend_on_chunks_are_refused(run: Run) -> None:
    with pytest.raises(PipelineError, match=r"batch normalisation \(the first: visual.bn1\).*chunk_size: null"):
        run(Continued(), replace(TRAINING, chunk_size=8))
    frozen = replace(TRAINING, chunk_size=8, epochs=1, freeze=replace(TRAINING.freeze, image_tower=True))
    _, history = run(Continued(), frozen)
    assert len(_values(history, "loss")) == PAIRS // 16


def test_a_loss_that_is_not_finite_is_skipped_and_counted(run: Run) -> None:
    learner, history = run(StopsAt(2, nan=True), replace(TRAINING, on_nonfinite="skip"))
    assert _values(history, "skipped_steps") == [0, 1, 1, 1, 1, 1]
    assert [math.isnan(value) for value in _values(history, "loss")] == [False, True, False, False, False, False]
    assert all(torch.isfinite(tensor).all() for tensor in _weights(learner).values())


def test_a_training_that_only_skips_stops_after_its_first_epoch(run: Run) -> None:
    class AlwaysNan:
        needs_negatives = False

        def __call__(self, embeddings: Embeddings) -> LossOutput:
            return LossOutput(Continued()(embeddings).loss * torch.nan)

    with pytest.raises(PipelineError, match="the last 2 of 2 steps were all skipped"):
        run(AlwaysNan(), replace(TRAINING, on_nonfinite="skip"))


def test_the_forget_set_is_told_per_epoch(run: Run) -> None:
    unlearn = load_section(RAW, "unlearn", UnlearnConfig)
    _, history = run(Unlearning(unlearn), replace(unlearn.training, epochs=2, batch_size=16), prompt=True)
    for name in ("epoch_precision", "epoch_recall", "epoch_base_rate", "epoch_auroc"):
        rows = [row for row in history if row[2] == f"forget_set/{name}"]
        assert [row[:2] for row in rows] == [(1, 0), (3, 1)], name
        assert all(0 <= row[3] <= 1 for row in rows)
