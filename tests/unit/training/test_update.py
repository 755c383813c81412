"""One step: chunks, precisions, and what is not finite."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.amp.grad_scaler import GradScaler

from pipeline_steps.core.schema import FreezeConfig
from pipeline_steps.methods.base import Embeddings, LossOutput
from pipeline_steps.methods.continued import Continued
from pipeline_steps.models.half import half_weights
from pipeline_steps.training.distributed import Processes
from pipeline_steps.training.update import NotFiniteError, encode, train_step
from tests.unit.training import tiny

ALONE = Processes(0, 1, torch.device("cpu"))


class Poisoned:
    """The contrastive objective with its loss made infinite, or its gradient, at chosen calls."""

    needs_negatives = False

    def __init__(self, calls: set[int], what: str) -> None:
        self._calls, self._what, self._seen = calls, what, 0

    def __call__(self, embeddings: Embeddings) -> LossOutput:
        self._seen += 1
        output = Continued()(embeddings)
        if self._seen not in self._calls:
            return output
        if self._what == "loss":
            return LossOutput(output.loss * torch.inf, {"retain": 2.0})
        # sqrt at 0: the loss is finite, its gradient is not
        return LossOutput(output.loss + (embeddings.image_ND.sum() * 0).sqrt())


def _steps(*, nudged: float = 0.0, **changes: Any) -> dict[str, dict[str, torch.Tensor]]:
    """The losses of three steps, the gradients of the last, and what they added to the weights.

    With `nudged` each weight starts off by at most that share of itself. The gradient of a key bias is zero but for
    rounding; an epsilon of 1e-2 keeps Adam from making steps of it.
    """
    training = tiny.settings(adam_epsilon=1e-2, **changes)
    learner = tiny.learner(training, tiny.unlearning(), ALONE)
    learner.scaler = GradScaler("cpu", init_scale=128, enabled=training.precision == "fp16")
    named = {**dict(learner.model.named_parameters()), "prompt": learner.prompt}
    tiny.nudge(named.values(), nudged)
    before = {name: one.detach().clone() for name, one in named.items()}
    losses = [train_step(learner, training, tiny.batch(step), step).output.loss.detach() for step in range(3)]
    assert learner.scaler.is_enabled() == (training.precision == "fp16")
    assert all(one.dtype == torch.float32 for one in named.values())
    return {
        "losses": {"all": torch.stack(losses)},
        "gradients": {name: one.grad for name, one in named.items() if one.grad is not None},
        "moved": {name: one.detach() - before[name] for name, one in named.items()},
    }


@pytest.fixture(scope="module")
def whole() -> dict[str, dict[str, torch.Tensor]]:
    return _steps()


@pytest.fixture(scope="module")
def nudged() -> dict[str, dict[str, torch.Tensor]]:
    return _steps(nudged=2.0**-24)


@pytest.mark.parametrize("chunk_size", [1, 5, 8])
def test_chunks_give_the_gradients_and_weights_of_the_whole_batch(
    whole: dict[str, Any], nudged: dict[str, Any], chunk_size: int
) -> None:
    chunked = _steps(chunk_size=chunk_size)
    for part, expected in whole.items():
        allowed = tiny.any_order(tiny.difference(nudged[part], expected))
        assert allowed < 1e-2, part
        assert tiny.difference(chunked[part], expected) <= allowed, part


def test_the_step_is_that_of_plain_backpropagation() -> None:
    training, batch = tiny.settings(grad_clip_norm=None), tiny.batch(0)
    learner = tiny.learner(training, tiny.unlearning(), ALONE)
    encoded = encode(learner, training, batch, 0)
    scale = learner.model.logit_scale.exp()
    loss = learner.objective(Embeddings(encoded.image, encoded.text, scale, encoded.negative)).loss
    torch.autograd.backward(loss)
    expected = {name: one.grad.clone() for name, one in learner.model.named_parameters() if one.grad is not None}
    update = train_step(learner, training, batch, 0)
    assert torch.equal(update.output.loss.detach(), loss.detach())
    assert "logit_scale" in expected
    assert expected.keys() == {name for name, one in learner.model.named_parameters() if one.grad is not None}
    for name, parameter in learner.model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected.get(name), rtol=1e-5, atol=1e-7, msg=name)


def test_what_does_not_train_is_not_encoded_again() -> None:
    frozen = tiny.settings(chunk_size=4, freeze=FreezeConfig(True, True, False, False, False, 0))
    learner = tiny.learner(frozen, tiny.unlearning(), ALONE)
    seen: list[int] = []
    learner.model.visual.register_forward_hook(lambda *_: seen.append(1))
    train_step(learner, frozen, tiny.batch(0), 0)
    assert len(seen) == 4
    assert all(one.grad is None for name, one in learner.model.named_parameters() if name.startswith("visual."))


@pytest.mark.parametrize(("precision", "rounding"), [("bf16", 2.0**-8), ("fp16", 2.0**-11)])
def test_half_precisions_follow_the_full_one(whole: dict[str, Any], precision: str, rounding: float) -> None:
    halved, nudged = _steps(precision=precision)["losses"], _steps(nudged=rounding)["losses"]
    allowed = tiny.any_order(tiny.difference(nudged, whole["losses"]))
    assert allowed < 0.1
    assert 0 < tiny.difference(halved, whole["losses"]) <= allowed


@pytest.mark.parametrize(("what", "named"), [("loss", r"loss is inf \(retain = 2\)"), ("gradient", "gradient norm is")])
def test_what_is_not_finite_stops_before_the_optimiser_step(what: str, named: str) -> None:
    training = tiny.settings(on_nonfinite="stop")
    learner = tiny.learner(training, Poisoned({1}, what), ALONE)
    before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    with pytest.raises(NotFiniteError, match=named):
        train_step(learner, training, tiny.batch(0), 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.model.state_dict().items())


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_is_not_finite_is_skipped_where_the_settings_say_so(what: str, precision: str) -> None:
    training = tiny.settings(on_nonfinite="skip", precision=precision)
    learner = tiny.learner(training, Poisoned({2}, what), ALONE)
    learner.scaler = GradScaler("cpu", init_scale=128, enabled=precision == "fp16")
    states = [{name: tensor.clone() for name, tensor in learner.model.state_dict().items()}]
    skipped = []
    for step in range(3):
        skipped.append(train_step(learner, training, tiny.batch(step), step).skipped)
        states.append({name: tensor.clone() for name, tensor in learner.model.state_dict().items()})
    assert skipped == [False, True, False]
    moved = [any(not torch.equal(old[name], new[name]) for name in old) for old, new in pairwise(states)]
    assert moved == [True, False, True]
    assert all(torch.isfinite(tensor).all() for tensor in states[-1].values())


def test_fp16_that_skips_goes_on_at_the_smallest_loss_scale() -> None:
    training = tiny.settings(precision="fp16", on_nonfinite="skip")
    learner = tiny.learner(training, Poisoned(set(range(1, 6)), "gradient"), ALONE)
    learner.scaler = GradScaler("cpu", init_scale=4)
    skipped = [train_step(learner, training, tiny.batch(step), step).skipped for step in range(7)]
    assert skipped == [True] * 5 + [False] * 2
    assert learner.scaler.get_scale() == 1


def test_fp16_lowers_its_loss_scale_before_it_gives_up() -> None:
    training = tiny.settings(precision="fp16", on_nonfinite="stop")
    learner = tiny.learner(training, Poisoned(set(range(1, 99)), "gradient"), ALONE)
    scales = []
    with pytest.raises(NotFiniteError, match="gradient norm"):
        for step in range(40):
            scales.append(learner.scaler.get_scale())
            train_step(learner, training, tiny.batch(step), step)
    assert scales[0] == 65536
    assert scales[-1] == 1
    assert len(scales) == 17


@pytest.mark.parametrize("bound", [2.0, None])
def test_the_logit_scale_is_clamped_where_a_bound_is_given(bound: float | None) -> None:
    training = tiny.settings(max_logit_scale=bound)
    learner = tiny.learner(training, Continued(), ALONE)
    assert learner.model.logit_scale.exp().item() > 10
    train_step(learner, training, tiny.batch(0), 0)
    assert (learner.model.logit_scale.exp().item() <= 2.0001) == (bound is not None)


def test_weights_stored_in_half_step_in_half_and_are_of_it_between_steps() -> None:
    for storage in ("fp32", "fp16"):
        training = tiny.settings(lr=2e-7, weight_storage=storage)
        learner = tiny.learner(training, Continued(), ALONE)
        train_step(learner, training, tiny.batch(0), 0)
        halves = half_weights(learner.model)
        named = {name for name, one in learner.model.named_parameters() if any(one is half for half in halves)}
        assert {"text_projection", "visual.proj", "visual.conv1.weight"} <= named
        assert all(one.dtype == torch.float32 for one in halves)
        assert all(bool((one == one.half().float()).all()) for one in halves) == (storage == "fp16")


def test_embeddings_and_norms_stay_in_full_precision_as_in_openais_conversion() -> None:
    learner = tiny.learner(tiny.settings(), Continued(), ALONE)
    halves = {id(one) for one in half_weights(learner.model)}
    kept = {name for name, one in learner.model.named_parameters() if id(one) not in halves}
    assert {"token_embedding.weight", "positional_embedding", "ln_final.weight", "logit_scale"} <= kept
