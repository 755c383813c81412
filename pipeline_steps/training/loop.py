"""The one training loop. It does not know which method it trains."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import TrainingConfig
from pipeline_steps.data.pairs import EpochBatches, PairDataset, mixed_seed, pair_loader
from pipeline_steps.methods.base import Embeddings, LossOutput, Objective
from pipeline_steps.models.freeze import set_training_mode
from pipeline_steps.models.prompt import encode_negative_text
from pipeline_steps.training.monitor import ForgetSetMonitor
from pipeline_steps.training.optimizer import trained_parameters
from pipeline_steps.training.schedule import cosine_factor
from pipeline_steps.training.state import load_state, save_state

LOG = logging.getLogger("pipeline_steps")
MAX_LOGIT_SCALE = math.log(100)
HistoryRow = tuple[int, int, str, float]


@dataclass
class Learner:
    """What is trained: an open_clip model, and the negative prompt (m, width) where the objective uses one."""

    model: Any
    optimizer: torch.optim.Optimizer
    objective: Objective
    device: torch.device
    prompt: Tensor | None = None


@dataclass(frozen=True)
class Phase:
    """One call of `fit`: its data, settings, seed, and where its state goes.

    `on_metrics(step, metrics)` receives every step's numbers; `first_step` continues the count of an earlier phase.
    """

    dataset: PairDataset
    settings: TrainingConfig
    seed: int
    state_file: Path
    fingerprint: str
    monitor: ForgetSetMonitor
    on_metrics: Callable[[int, dict[str, float]], None]
    title: str
    first_step: int = 0


@dataclass
class _Progress:
    epoch: int = 0
    history: list[HistoryRow] = field(default_factory=list)


def fit(learner: Learner, phase: Phase) -> list[HistoryRow]:
    """Train for `settings.epochs` epochs; return the history as (step, epoch, name, value).

    State is kept after every epoch, and a run that was interrupted goes on from there. On CPU the weights are those
    of an undisturbed run. Raises PipelineError on a non-finite loss or gradient norm, before the optimiser step.
    """
    settings, batches = phase.settings, EpochBatches(len(phase.dataset), phase.settings.batch_size, phase.seed)
    loader = pair_loader(phase.dataset, batches, settings.workers)
    progress = _resume(learner, phase)
    for row in progress.history:
        phase.on_metrics(row[0], {row[2]: row[3]})
    with tqdm(
        total=settings.epochs * len(batches),
        initial=progress.epoch * len(batches),
        desc=phase.title,
        unit="batch",
        mininterval=5.0,
    ) as bar:
        for epoch in range(progress.epoch, settings.epochs):
            batches.epoch = phase.dataset.epoch = epoch
            torch.manual_seed(mixed_seed(phase.seed, epoch))
            for step, metrics in _epoch(learner, phase, loader, epoch):
                progress.history += [(step, epoch, name, value) for name, value in metrics.items()]
                phase.on_metrics(step, metrics)
                bar.set_postfix(epoch=epoch + 1, loss=f"{metrics['loss']:.3f}", refresh=False)
                bar.update()
            progress.epoch = epoch + 1
            _keep(learner, phase, progress)
    return progress.history


def _epoch(
    learner: Learner, phase: Phase, loader: DataLoader[Any], epoch: int
) -> Iterator[tuple[int, dict[str, float]]]:
    settings, steps = phase.settings, len(loader)
    total, warmup = settings.epochs * steps, round(settings.warmup_fraction * settings.epochs * steps)
    set_training_mode(learner.model, settings.freeze)
    started = time.perf_counter()
    for index, (rows_N, images, tokens) in enumerate(loader):
        own_step = epoch * steps + index
        factor = cosine_factor(own_step, total, warmup)
        for group in learner.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        step = phase.first_step + own_step
        output = _update(learner, settings, images, tokens, f"epoch {epoch + 1}, step {step}", phase.state_file)
        now = time.perf_counter()
        metrics = {"loss": float(output.loss.detach()), "lr": learner.optimizer.param_groups[0]["lr"]}
        metrics |= {_term_name(name): float(value) for name, value in output.terms.items()}
        metrics |= {
            "logit_scale": learner.model.logit_scale.exp().item(),
            "pairs_per_second": len(rows_N) / (now - started),
        }
        if output.forget_N is not None:
            metrics |= phase.monitor.metrics(rows_N, output.forget_N)
        started = now
        yield step, metrics


def _update(
    learner: Learner, settings: TrainingConfig, images: Tensor, tokens: Tensor, place: str, state_file: Path
) -> LossOutput:
    embeddings = embed(learner, settings, images.to(learner.device, non_blocking=True), tokens.to(learner.device))
    output = learner.objective(embeddings)
    _require_finite(output.loss, "loss", place, output, state_file)
    learner.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(output.loss)
    norm = torch.nn.utils.clip_grad_norm_(trained_parameters(learner.optimizer), settings.grad_clip_norm or math.inf)
    _require_finite(norm, "gradient norm", place, output, state_file)
    output.terms["grad_norm"] = float(norm)
    learner.optimizer.step()
    with torch.no_grad():
        learner.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
    return output


def embed(learner: Learner, settings: TrainingConfig, images: Tensor, tokens_NL: Tensor) -> Embeddings:
    """Embeddings of one batch in float32, computed in the precision of the settings."""
    model = learner.model
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(learner.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        with torch.set_grad_enabled(not (settings.freeze.image_tower and settings.freeze.image_projection)):
            image_ND = model.encode_image(images, normalize=True)
        text_ND = model.encode_text(tokens_NL, normalize=True)
        negative_ND = None
        if learner.objective.needs_negatives:
            if learner.prompt is None:
                raise PipelineError("this objective needs a negative prompt and the learner has none")
            negative_ND = encode_negative_text(model, tokens_NL, learner.prompt).float()
    return Embeddings(image_ND.float(), text_ND.float(), model.logit_scale.exp(), negative_ND)


def _term_name(name: str) -> str:
    return name if "/" in name or name == "grad_norm" else f"loss/{name}"


def _require_finite(value: Tensor, what: str, place: str, output: LossOutput, state_file: Path) -> None:
    if not torch.isfinite(value):
        terms = ", ".join(f"{name} = {float(term):.4g}" for name, term in output.terms.items())
        kept = f"the last good state is {state_file}" if state_file.is_file() else "no epoch had been completed"
        raise PipelineError(
            f"the {what} is {value.item()} at {place} ({terms or 'one term'}); training stopped before the optimiser "
            f"step, and {kept}. Lower training.lr, set training.grad_clip_norm, or use training.precision: fp32."
        )


def _resume(learner: Learner, phase: Phase) -> _Progress:
    state = load_state(phase.state_file, phase.fingerprint)
    if state is None:
        return _Progress()
    learner.model.load_state_dict(state["model"])
    learner.optimizer.load_state_dict(state["optimizer"])
    if isinstance(learner.prompt, nn.Parameter):
        with torch.no_grad():
            learner.prompt.copy_(state["prompt"])
    LOG.info("%s goes on after epoch %d", phase.title, state["epoch"])
    return _Progress(state["epoch"], [tuple(row) for row in state["history"]])


def _keep(learner: Learner, phase: Phase, progress: _Progress) -> None:
    prompt = None if learner.prompt is None else learner.prompt.detach().cpu()
    save_state(
        phase.state_file,
        phase.fingerprint,
        {
            "model": learner.model.state_dict(),
            "optimizer": learner.optimizer.state_dict(),
            "prompt": prompt,
            "epoch": progress.epoch,
            "history": [list(row) for row in progress.history],
        },
    )
