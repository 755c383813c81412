"""From a step's context to trained weights: the pairs, the phases one after another, the history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import nn

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import whole_file
from pipeline_steps.core.schema import TrainingConfig
from pipeline_steps.core.step import StepContext
from pipeline_steps.data.manifest import TRAINING_COLUMNS, TRUTH_COLUMNS, image_root, read_manifest
from pipeline_steps.data.pairs import PairDataset
from pipeline_steps.methods.base import Objective
from pipeline_steps.models.clip import ClipBundle, best_device, save_clip
from pipeline_steps.models.freeze import apply_freeze, frozen_text_blocks
from pipeline_steps.training.loop import HistoryRow, Learner, Phase, fit
from pipeline_steps.training.monitor import ForgetSetMonitor
from pipeline_steps.training.optimizer import build_optimizer
from pipeline_steps.training.state import state_path


@dataclass(frozen=True)
class PhasePlan:
    """One phase of a training: its settings and objective. `prompt` (m, width) trains when it is a Parameter."""

    name: str
    training: TrainingConfig
    objective: Objective
    prompt: torch.Tensor | None = None
    prompt_lr: float = 0.0
    prompt_weight_decay: float = 0.0


def train_checkpoint(
    context: StepContext,
    bundle: ClipBundle,
    plans: Sequence[PhasePlan],
    extra_tensors: dict[str, dict[str, torch.Tensor]] | None = None,
) -> None:
    """What every training step does: run the phases, write history and checkpoint, remove the resume states.

    `extra_tensors` are further safetensors files of the checkpoint, by file name, as they are after training.
    """
    write_history(context, train(context, bundle, plans))
    save_clip(context.paths["checkpoint"], bundle, extra_tensors)
    for plan in plans:
        _state_file(context, plan).unlink(missing_ok=True)


def train(context: StepContext, bundle: ClipBundle, plans: Sequence[PhasePlan]) -> list[HistoryRow]:
    """Run the phases in order on the training split; `bundle.model` ends trained, on the CPU.

    Returns the history of all phases. Raises PipelineError for an empty split, a batch larger than the data, more
    frozen blocks than the text tower has, and a loss that is not finite.
    """
    if context.threads:
        torch.set_num_threads(context.threads)
    torch.manual_seed(context.seed)
    device = best_device()
    bundle.model.to(device=device, memory_format=torch.channels_last)
    truth = _training_rows(context.paths["pairs"], TRUTH_COLUMNS[:1])
    monitor = ForgetSetMonitor(torch.tensor(truth[TRUTH_COLUMNS[0]].to_pylist()))
    history: list[HistoryRow] = []
    for plan in plans:
        first_step = history[-1][0] + 1 if history else 0
        phase = _phase(context, bundle, plan, monitor, first_step)
        history += fit(_learner(context, bundle, plan, device), phase)
    bundle.model.cpu()
    return history


def write_history(context: StepContext, history: Sequence[HistoryRow]) -> None:
    """Write the history in long form (step, epoch, name, value), and store it with the run."""
    path = context.paths["history"]
    columns = list(zip(*history, strict=True)) or [(), (), (), ()]
    table = pa.table(dict(zip(("step", "epoch", "name", "value"), columns, strict=True)))
    with whole_file(path) as partial:
        pq.write_table(table, partial)
    context.run.log_file(path)


def _phase(
    context: StepContext, bundle: ClipBundle, plan: PhasePlan, monitor: ForgetSetMonitor, first_step: int
) -> Phase:
    rows = _training_rows(context.paths["pairs"], TRAINING_COLUMNS)
    root = image_root(context.paths["pairs"])
    transform = bundle.train_transform(plan.training.crop_scale_min)
    dataset = PairDataset(rows, root, transform, bundle.tokenizer, context.seed)
    return Phase(
        dataset=dataset,
        settings=plan.training,
        seed=context.seed,
        state_file=_state_file(context, plan),
        fingerprint=f"{context.run.fingerprint}-{context.seed}-{plan.name}",
        monitor=monitor,
        on_metrics=lambda step, metrics: context.run.log_metrics(metrics, step),
        title=f"{context.method} {plan.name}",
        first_step=first_step,
    )


def _learner(context: StepContext, bundle: ClipBundle, plan: PhasePlan, device: torch.device) -> Learner:
    blocks = frozen_text_blocks(bundle.model)
    if plan.training.freeze.text_blocks > blocks:
        raise PipelineError(
            f"{plan.name}.training.freeze.text_blocks = {plan.training.freeze.text_blocks}; "
            f"this text tower has {blocks} blocks, so allowed is 0 to {blocks}"
        )
    trained = apply_freeze(bundle.model, plan.training.freeze)
    context.log.info("%s trains %d of %d tensors", plan.name, len(trained), len(list(bundle.model.parameters())))
    context.run.log_text("\n".join(trained) + "\n", f"trained_tensors_{plan.name}.txt")
    if plan.prompt is not None:
        plan.prompt.data = plan.prompt.data.to(device)
    trainable = plan.prompt if isinstance(plan.prompt, nn.Parameter) else None
    optimizer = build_optimizer(bundle.model, plan.training, trainable, plan.prompt_lr, plan.prompt_weight_decay)
    return Learner(bundle.model, optimizer, plan.objective, device, plan.prompt)


def _training_rows(path: Path, columns: Sequence[str]) -> pa.Table:
    table = read_manifest(path, [*columns, "split"] if "split" not in columns else list(columns))
    rows = table.filter(pc.equal(table["split"], "train"))
    if rows.num_rows == 0:
        raise PipelineError(f"{path} has no row of the split 'train'; check build_manifest.validation_fraction")
    return rows


def _state_file(context: StepContext, plan: PhasePlan) -> Path:
    return state_path(context.paths["checkpoint"]).with_suffix(f".{plan.name}.pt")
