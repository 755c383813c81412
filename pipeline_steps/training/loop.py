"""The one training loop. It does not know which method it trains."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.process import Paused, stop_noted
from pipeline_steps.core.schema import TrainingConfig
from pipeline_steps.data.pairs import Batch, EpochBatches, Pairs, mixed_seed, pair_loader
from pipeline_steps.models.freeze import set_training_mode
from pipeline_steps.training.distributed import Processes
from pipeline_steps.training.history import HistoryRow, columns_of, rows_of
from pipeline_steps.training.monitor import ForgetSetMonitor
from pipeline_steps.training.schedule import learning_rate_factor
from pipeline_steps.training.selection import BestEpoch
from pipeline_steps.training.state import load_state, save_state
from pipeline_steps.training.update import Learner, NotFiniteError, Update, train_step

LOG = logging.getLogger("pipeline_steps")


@dataclass(frozen=True)
class Phase:
    """One call of `fit`: its data, settings, seed, and where its state goes.

    `on_metrics(step, metrics)` receives every step's numbers; `first_step` continues the count of an earlier phase.
    `best` keeps the best epoch where `settings.selection` asks for it.
    """

    dataset: Pairs
    settings: TrainingConfig
    seed: int
    state_file: Path
    fingerprint: str
    monitor: ForgetSetMonitor
    on_metrics: Callable[[int, dict[str, float]], None]
    title: str
    first_step: int = 0
    best: BestEpoch | None = None

    def batches(self, processes: Processes) -> EpochBatches:
        """This process's share of every batch of all epochs.

        Raises PipelineError for a batch that is larger than the data or does not divide among the processes.
        """
        settings = self.settings
        return EpochBatches(
            len(self.dataset), settings.batch_size, self.seed, epochs=settings.epochs,
            share=processes.share(settings.batch_size), reshuffle=settings.shuffle == "every_epoch",
        )  # fmt: skip


@dataclass
class _Progress:
    """Batches done in all epochs of this phase, steps skipped among them and since the last that was not, the history,
    and when it was last kept.
    """

    done: int = 0
    skipped: int = 0
    skipped_since: int = 0
    history: list[HistoryRow] = field(default_factory=list)
    kept_at: float = field(default_factory=time.monotonic)


def fit(learner: Learner, phase: Phase) -> list[HistoryRow]:
    """Train for `settings.epochs` epochs; return the history as (step, epoch, name, value).

    State is kept every `save_minutes` and after every epoch; a training that ended at whatever moment goes on from
    there, with the same batches, and on CPU ends in the weights of an undisturbed one, bit for bit. On SIGTERM or
    Ctrl-C in any of the processes all of them end after the same step, with Paused, once the state is kept.
    Raises PipelineError on a batch that the processes cannot share, on a loss or gradient that is not finite where
    `on_nonfinite` is `stop`, and for batch normalisation whose statistics would depend on processes or chunks.
    """
    settings, processes = phase.settings, learner.processes
    batches = phase.batches(processes)
    set_training_mode(learner.model, settings.freeze)
    _require_exact_statistics(learner.model, processes, settings)
    progress = _resume(learner, phase)
    for row in progress.history:
        phase.on_metrics(row[0], {row[2]: row[3]})
    total, batches.first = len(batches), progress.done
    with (
        stop_noted() as stop_asked,
        tqdm(
            total=total, initial=progress.done, desc=phase.title, unit="batch", mininterval=5.0,
            disable=not processes.leads,
        ) as bar,
    ):  # fmt: skip
        for epoch, metrics in _steps(learner, phase, progress, batches):
            bar.set_postfix(epoch=epoch + 1, loss=f"{metrics['loss']:.3f}", refresh=False)
            bar.update()
            if not processes.agree(not stop_asked()):
                _keep(learner, phase, progress)
                processes.agree(True)  # who ends earlier could take the one that writes along
                kept = f"{phase.title} is kept after step {phase.first_step + progress.done}"
                raise Paused(stop_asked() or "another process was told to", kept)
    if phase.best is not None:
        phase.best.restore(learner)
    return progress.history


def _steps(
    learner: Learner, phase: Phase, progress: _Progress, batches: EpochBatches
) -> Iterator[tuple[int, dict[str, float]]]:
    """Train on every batch; its epoch and numbers."""
    started, per_epoch = time.perf_counter(), batches.per_epoch
    for batch in pair_loader(phase.dataset, batches, phase.settings.workers):
        epoch = progress.done // per_epoch
        factor = learning_rate_factor(progress.done, per_epoch, phase.settings)
        for group in learner.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        step = phase.first_step + progress.done
        update = _update(learner, phase, batch, epoch, step)
        progress.skipped += update.skipped
        progress.skipped_since = progress.skipped_since + 1 if update.skipped else 0
        now = time.perf_counter()
        metrics = _metrics(learner, phase, batch, update, progress.skipped)
        metrics["pairs_per_second"] = phase.settings.batch_size / (now - started)
        started = now
        progress.done += 1
        ends = progress.done % per_epoch == 0
        if ends and progress.skipped_since >= max(2, per_epoch // 2) and not learner.scale_may_fall:
            raise PipelineError(
                f"the last {progress.skipped_since} of {progress.done} steps were all skipped: the loss or its "
                "gradient is not finite any more, and nothing is learned. Lower training.lr, or use "
                "training.precision: fp32."
            )
        if ends:
            metrics |= phase.monitor.epoch_metrics()
        if ends and phase.best is not None:
            metrics |= phase.best.consider(learner, epoch)
        progress.history += [(step, epoch, name, value) for name, value in metrics.items()]
        phase.on_metrics(step, metrics)
        if ends or time.monotonic() - progress.kept_at >= 60 * phase.settings.save_minutes:
            _keep(learner, phase, progress)
        yield epoch, metrics


def _update(learner: Learner, phase: Phase, batch: Batch, epoch: int, step: int) -> Update:
    try:
        return (learner.stepper or train_step)(learner, phase.settings, batch, mixed_seed(phase.seed, step))
    except NotFiniteError as error:
        kept = f"the last good state is {phase.state_file}" if phase.state_file.is_file() else "no state had been kept"
        raise PipelineError(
            f"{error} at epoch {epoch + 1}, step {step}; training stopped before the optimiser step, and {kept}. Lower "
            "training.lr, set training.grad_clip_norm, use training.precision: fp32, or count and skip such steps with "
            "training.on_nonfinite: skip. With another setting training starts from the beginning."
        ) from error


def _metrics(learner: Learner, phase: Phase, batch: Batch, update: Update, skipped: int) -> dict[str, float]:
    output, scaled = update.output, learner.scaler.is_enabled()
    metrics = {"loss": float(output.loss.detach()), "lr": learner.optimizer.param_groups[0]["lr"]}
    metrics |= {name if "/" in name else f"loss/{name}": float(value) for name, value in output.terms.items()}
    metrics["logit_scale"] = learner.model.logit_scale.exp().item()
    metrics["grad_norm"] = update.grad_norm
    if scaled or phase.settings.on_nonfinite == "skip":
        metrics["skipped_steps"] = skipped
    if scaled:
        metrics["loss_scale"] = learner.scaler.get_scale()
    if output.forget_N is not None:
        rows_N = learner.processes.gather(batch.rows.to(learner.processes.device)).cpu()
        metrics |= phase.monitor.metrics(rows_N, output.forget_N, output.confidence_N)
    return metrics


def _require_exact_statistics(model: nn.Module, processes: Processes, settings: TrainingConfig) -> None:
    """Batch normalisation in training sees what is in the tower at once: the batch, only without chunks and alone."""
    chunked = settings.chunk_size is not None and settings.chunk_size < settings.batch_size // processes.size
    local = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
        if chunked or not isinstance(module, nn.SyncBatchNorm)
    ]
    if local and (chunked or processes.size > 1):
        raise PipelineError(
            f"this model has {len(local)} layers of batch normalisation (the first: {local[0]}), whose statistics "
            "would depend on training.chunk_size and, on CPU, on the number of processes, and the result with them. "
            "Use one process and training.chunk_size: null, freeze the image tower, or choose an architecture without "
            "batch normalisation, such as a vision transformer."
        )


def _resume(learner: Learner, phase: Phase) -> _Progress:
    state = load_state(phase.state_file, phase.fingerprint)
    done = torch.tensor([-1 if state is None else state["done"]], device=learner.processes.device)
    found = learner.processes.gather(done).tolist()  # nobody writes a newer state while another still reads this one
    if len(set(found)) > 1:
        raise PipelineError(
            f"the processes do not find the same state in {phase.state_file}: steps done by process are {found} (-1: "
            "none). Put the results where every machine sees the same files, or delete the state to start over."
        )
    if state is None:
        return _Progress()
    try:
        if not 0 < state["done"] <= len(phase.batches(learner.processes)):
            raise ValueError(f"{state['done']} steps done")
        _restore(learner, phase, state)
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise PipelineError(
            f"the state {phase.state_file} is of another version of this pipeline ({error!r}); delete it to train from "
            "the beginning"
        ) from error
    LOG.info("%s goes on after step %d", phase.title, phase.first_step + state["done"])
    return _Progress(state["done"], state["skipped"], state["skipped_since"], rows_of(state["history"]))


def _restore(learner: Learner, phase: Phase, state: dict[str, Any]) -> None:
    learner.model.load_state_dict(state["model"])
    learner.optimizer.load_state_dict(state["optimizer"])
    learner.scaler.load_state_dict(state["scaler"])
    phase.monitor.load_state(state["monitor"])
    if phase.best is not None:
        phase.best.load_state(state["best"])
    if learner.stepper is not None:
        learner.stepper.load_state(state["stepper"])
    if isinstance(learner.prompt, nn.Parameter):
        with torch.no_grad():
            learner.prompt.copy_(state["prompt"])


def _keep(learner: Learner, phase: Phase, progress: _Progress) -> None:
    if learner.processes.leads:
        state = {
            "model": learner.model.state_dict(),
            "optimizer": learner.optimizer.state_dict(),
            "scaler": learner.scaler.state_dict(),
            "monitor": phase.monitor.state(),
            "best": None if phase.best is None else phase.best.state(),
            "stepper": None if learner.stepper is None else learner.stepper.state(),
            "prompt": None if learner.prompt is None else learner.prompt.detach().cpu(),
            "done": progress.done,
            "skipped": progress.skipped,
            "skipped_since": progress.skipped_since,
            "history": columns_of(progress.history),
        }
        save_state(phase.state_file, phase.fingerprint, state)
    progress.kept_at = time.monotonic()
