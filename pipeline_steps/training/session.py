"""From a step's context to trained weights: the pairs, the phases one after another, the history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import whole_file
from pipeline_steps.core.schema import NegativeTextConfig, TrainingConfig
from pipeline_steps.core.step import StepContext
from pipeline_steps.data.manifest import TRAINING_COLUMNS, TRUTH_COLUMNS, image_root, training_rows, validation_rows
from pipeline_steps.data.negative_text import NegativeText
from pipeline_steps.data.pairs import PairDataset
from pipeline_steps.data.pictures import PictureReader
from pipeline_steps.methods.base import Objective
from pipeline_steps.models.clip import ClipBundle, save_clip
from pipeline_steps.models.freeze import apply_freeze, frozen_text_blocks
from pipeline_steps.models.tokens import tokenizer_for
from pipeline_steps.training.distributed import Processes, process_group
from pipeline_steps.training.history import HistoryRow
from pipeline_steps.training.loop import Phase, fit
from pipeline_steps.training.monitor import ForgetSetMonitor
from pipeline_steps.training.optimizer import build_optimizer
from pipeline_steps.training.selection import BestEpoch
from pipeline_steps.training.state import state_path
from pipeline_steps.training.update import Learner


@dataclass(frozen=True)
class PhasePlan:
    """One phase of a training: its settings and objective. `prompt` (m, width) trains when it is a Parameter.

    `negative_text` says what becomes a hardest negative, where the objective needs them.
    """

    name: str
    training: TrainingConfig
    objective: Objective
    negative_text: NegativeTextConfig | None = None
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

    `extra_tensors` are further safetensors files of the checkpoint, by file name, as they are after training. Under
    torchrun every process calls this, and the first one writes.
    """
    with process_group() as processes:
        history = train(context, bundle, plans, processes)
    if processes.leads:
        write_history(context, history)
        save_clip(context.paths["checkpoint"], bundle, extra_tensors)
        for plan in plans:
            _state_file(context, plan).unlink(missing_ok=True)


def train(
    context: StepContext, bundle: ClipBundle, plans: Sequence[PhasePlan], processes: Processes
) -> list[HistoryRow]:
    """Run the phases in order on the training split; `bundle.model` ends trained, on the CPU.

    Returns the history of all phases. Raises PipelineError for an empty split, a batch larger than the data, more
    frozen blocks than the text tower has, and what `fit` raises.
    """
    if context.threads:
        torch.set_num_threads(max(1, context.threads // processes.size))
    torch.manual_seed(context.seed)
    bundle.model.to(device=processes.device, memory_format=torch.channels_last)
    if processes.size > 1 and processes.device.type == "cuda":
        # In place; the parameters stay the same objects.
        nn.SyncBatchNorm.convert_sync_batchnorm(bundle.model)  # type: ignore[no-untyped-call]
    history: list[HistoryRow] = []
    for plan in plans:
        first_step = history[-1][0] + 1 if history else 0
        history += fit(_learner(context, bundle, plan, processes), _phase(context, bundle, plan, first_step))
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


def _phase(context: StepContext, bundle: ClipBundle, plan: PhasePlan, first_step: int) -> Phase:
    pairs, training = context.paths["pairs"], plan.training
    rows = training_rows(pairs, training.pairs, [*TRAINING_COLUMNS, TRUTH_COLUMNS[0]])
    monitor = ForgetSetMonitor(torch.from_numpy(rows[TRUTH_COLUMNS[0]].to_numpy()))
    rows = rows.select(TRAINING_COLUMNS)  # training itself never sees the truth
    tokenizer = tokenizer_for(bundle, training.truncation)
    pictures = PictureReader(image_root(pairs))
    wanted = plan.negative_text
    negative = None if wanted is None else NegativeText(rows["caption"], wanted, context.seed)
    transform = bundle.train_transform(training.crop_scale_min)
    best = None
    if training.selection == "validation":
        held_out = PairDataset(validation_rows(pairs, TRAINING_COLUMNS), pictures, bundle.preprocess, tokenizer, 0)
        best = BestEpoch(held_out, training)
    return Phase(
        dataset=PairDataset(rows, pictures, transform, tokenizer, context.seed, negative),
        settings=training,
        seed=context.seed,
        state_file=_state_file(context, plan),
        fingerprint=f"{context.run.fingerprint}-{context.seed}-{plan.name}",
        monitor=monitor,
        on_metrics=lambda step, metrics: context.run.log_metrics(metrics, step),
        title=f"{context.method} {plan.name}",
        first_step=first_step,
        best=best,
    )


def _learner(context: StepContext, bundle: ClipBundle, plan: PhasePlan, processes: Processes) -> Learner:
    blocks, device = frozen_text_blocks(bundle.model), processes.device
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
    scaler = GradScaler(device.type, enabled=plan.training.precision == "fp16")
    return Learner(bundle.model, optimizer, plan.objective, processes, scaler, plan.prompt)


def _state_file(context: StepContext, plan: PhasePlan) -> Path:
    return state_path(context.paths["checkpoint"]).with_suffix(f".{plan.name}.pt")
