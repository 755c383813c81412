"""NPC's step against a plain float64 one; what it keeps; and what its keys change."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch.amp.grad_scaler import GradScaler

from pipeline_steps.core.config import load_section
from pipeline_steps.core.schema import TrainNpcConfig
from pipeline_steps.data.pairs import Batch
from pipeline_steps.methods.continued import Continued
from pipeline_steps.training.distributed import Processes
from pipeline_steps.training.siamese import SiameseStepper
from pipeline_steps.training.update import Learner, NotFiniteError
from tests.oracles import npc as oracle
from tests.unit.training import tiny

ALONE = Processes(0, 1, torch.device("cpu"))
NPC = load_section(tiny.RAW, "train_npc", TrainNpcConfig)
# The gradient of a key bias is zero but for rounding; a larger epsilon keeps Adam from making a step of it.
EXACT: dict[str, Any] = {"adam_epsilon": 1e-2, "grad_clip_norm": None, "lr": 1e-2}


def _learner(**changes: Any) -> Learner:
    learner = tiny.learner(training := tiny.settings(**changes), Continued(), ALONE)
    assert training.batch_size == 16
    learner.prompt = None
    groups = [group for group in learner.optimizer.param_groups if group["lr"] == training.lr]
    learner.optimizer.param_groups[:] = groups[:2]
    learner.scaler = GradScaler("cpu", init_scale=128, enabled=training.precision == "fp16")
    return learner


def _weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in learner.model.named_parameters()}


def _assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    """A step is lr g / (|g| + epsilon), so that an error of a share r of g moves it by at most lr r / 4, and one of d
    where g is zero by lr d / epsilon = d. Sums in another order have r < 1e-4 and d < 1e-6: 1e-5 is enough for any.
    """
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name].double(), tensor.double(), rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize(
    "changes",
    [{}, {"weights": "batch"}, {"bank_gradient": False}, {"bank_weight": 0.3}, {"siamese": "official"}],
    ids=str,
)
def test_a_step_equals_a_plain_float64_one(changes: dict[str, Any]) -> None:
    learner, npc = _learner(**EXACT), replace(NPC, **changes)
    stepper, moments = SiameseStepper(npc), None
    for step in range(2):
        batch = tiny.banked_batch(step)
        expected, moments = oracle.step(learner.model, batch, tiny.settings(**EXACT), npc, moments)
        learner.optimizer.state.clear()  # the oracle's own step has no memory
        stepper(learner, tiny.settings(**EXACT), batch, step)
        _assert_close(_weights(learner), expected)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_what_a_small_step_does_to_the_bank_is_seen_in_any_precision(precision: str) -> None:
    found = {}
    for kind in ("fp32", precision):
        changes = EXACT | {"lr": 1e-5, "adam_epsilon": 1e-6, "precision": kind}
        update = SiameseStepper(NPC)(_learner(**changes), tiny.settings(**changes), tiny.banked_batch(0), 0)
        assert update.output.confidence_N is not None
        found[kind] = update.output.confidence_N.double()
    # Factors off by sqrt(TERMS) roundings of bf16 (tiny.any_order) leave 0.98; a bank in half precision leaves noise.
    assert float(torch.corrcoef(torch.stack(list(found.values())))[0, 1]) > 0.9


@pytest.mark.parametrize("chunk_size", [3, 8])
def test_chunks_give_the_weights_of_the_whole_batch(chunk_size: int) -> None:
    found = []
    for size in (None, chunk_size):
        learner = _learner(chunk_size=size, **EXACT)
        for step in range(2):
            SiameseStepper(NPC)(learner, tiny.settings(chunk_size=size, **EXACT), tiny.banked_batch(step), step)
        found.append(_weights(learner))
    _assert_close(found[1], found[0])


@pytest.mark.parametrize("siamese", ["stateless", "official"])
def test_a_stepper_goes_on_from_its_state_bit_for_bit(tmp_path: Path, siamese: Any) -> None:
    npc = replace(NPC, siamese=siamese)
    learner, stepper = _learner(), SiameseStepper(npc)
    for step in range(2):
        stepper(learner, tiny.settings(), tiny.banked_batch(step), step)
    torch.save([learner.model.state_dict(), learner.optimizer.state_dict(), stepper.state()], tmp_path / "state.pt")
    stepper(learner, tiny.settings(), tiny.banked_batch(2), 2)
    again, other = _learner(), SiameseStepper(npc)
    model, optimizer, state = torch.load(tmp_path / "state.pt", weights_only=True)
    again.model.load_state_dict(model)
    again.optimizer.load_state_dict(optimizer)
    other.load_state(state)
    other(again, tiny.settings(), tiny.banked_batch(2), 2)
    assert all(bool((one == _weights(learner)[name]).all()) for name, one in _weights(again).items())
    assert (state["moments"] is not None) == (siamese == "official")


def test_the_official_siamese_remembers_and_the_stateless_one_does_not() -> None:
    outcomes = {}
    for siamese in ("stateless", "official"):
        for past in (False, True):
            learner, stepper = _learner(), SiameseStepper(replace(NPC, siamese=siamese))
            if past:
                before = _weights(learner)
                stepper(learner, tiny.settings(), tiny.banked_batch(7), 7)
                learner.model.load_state_dict(before, strict=False)
            output = stepper(learner, tiny.settings(), tiny.banked_batch(0), 0).output
            outcomes[siamese, past] = float(output.terms["npc/ratio"])
    assert outcomes["stateless", True] == outcomes["stateless", False]
    assert outcomes["official", True] != outcomes["official", False]


def test_fp16_scales_its_loss_and_steps_where_fp32_does() -> None:
    """In whatever order a processor sums fp16 products, and also where it keeps the sums in fp16."""
    # A large epsilon makes Adam's step as smooth as its gradient. A pair's weight jumps where its ratio passes 1; with
    # this batch as its own bank no ratio is so near that rounding could take it across.
    changes = EXACT | {"adam_epsilon": 1.0, "lr": 0.1}
    own = dataclasses.replace(tiny.batch(18), negative_tokens=None)
    found: dict[str, dict[str, dict[str, torch.Tensor]]] = {}
    for kind, precision in (("fp32", "fp32"), ("nudged", "fp32"), ("fp16", "fp16")):
        learner = _learner(precision=precision, **changes)
        if kind == "nudged":
            tiny.nudge(learner.model.parameters(), 2.0**-11)  # one rounding of fp16
        before, batch = _weights(learner), dataclasses.replace(own, bank=(own, own))
        update = SiameseStepper(NPC)(learner, tiny.settings(precision=precision, **changes), batch, 0)
        assert not update.skipped
        assert update.output.confidence_N is not None
        gradients = {name: one.grad for name, one in learner.model.named_parameters() if one.grad is not None}
        moved = {name: one - before[name] for name, one in _weights(learner).items()}
        ratio = update.output.confidence_N / (1 - update.output.confidence_N)
        norm = torch.tensor(update.grad_norm)
        found[kind] = {"gradients": gradients, "norm": {"all": norm}, "moved": moved, "ratio": {"npc/ratio": ratio}}
    exact, nudged, half = (found[kind] for kind in ("fp32", "nudged", "fp16"))
    ratio, off = exact["ratio"]["npc/ratio"], (nudged["ratio"]["npc/ratio"] - exact["ratio"]["npc/ratio"]).abs()
    assert float((ratio - 1).abs().min()) > tiny.any_order(float(off.max()))
    for part in ("gradients", "norm", "moved", "ratio"):
        allowed = tiny.any_order(tiny.difference(nudged[part], exact[part]))
        assert allowed < 0.1, part
        assert tiny.difference(half[part], exact[part]) <= allowed, part


def test_a_gradient_that_overflows_in_fp16_is_a_search_for_the_loss_scale() -> None:
    learner = _learner(precision="fp16")
    learner.scaler = GradScaler("cpu", init_scale=2.0**40)
    before = _weights(learner)
    update = SiameseStepper(NPC)(learner, tiny.settings(precision="fp16"), tiny.banked_batch(0), 0)
    assert update.skipped
    assert learner.scaler.get_scale() < 2.0**40
    assert all(bool((one == before[name]).all()) for name, one in _weights(learner).items())


def test_pictures_that_are_not_finite_stop_before_the_step() -> None:
    learner, batch = _learner(), tiny.banked_batch(0)
    before = _weights(learner)
    broken = Batch(batch.rows, batch.images * torch.nan, batch.tokens, None, batch.bank)
    with pytest.raises(NotFiniteError, match="the loss is nan"):
        SiameseStepper(NPC)(learner, tiny.settings(), broken, 0)
    assert all(bool((one == before[name]).all()) for name, one in _weights(learner).items())
