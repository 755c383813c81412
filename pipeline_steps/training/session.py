"""From a step's context to trained weights: the pairs, the phases one after another, the history."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.process import local_world_size
from pipeline_steps.core.schema import NegativeTextConfig, TrainingConfig
from pipeline_steps.core.step import StepContext
from pipeline_steps.data.bank import read_bank
from pipeline_steps.data.manifest import TRAINING_COLUMNS, TRUTH_COLUMNS, image_root, training_rows, validation_rows
from pipeline_steps.data.negative_text import NegativeText
from pipeline_steps.data.pairs import BankedPairs, PairDataset, Pairs
from pipeline_steps.data.parquet_file import write_parquet
from pipeline_steps.data.pictures import PictureReader
from pipeline_steps.methods.base import Objective
from pipeline_steps.models.clip import ClipBundle, save_clip
from pipeline_steps.models.freeze import apply_freeze, frozen_text_blocks
from pipeline_steps.models.meter import metered
from pipeline_steps.models.tokens import tokenizer_for
from pipeline_steps.training.distributed import Processes, process_group, share_batch_statistics
from pipeline_steps.training.history import HistoryRow
from pipeline_steps.training.loop import Phase, fit
from pipeline_steps.training.monitor import ForgetSetMonitor
from pipeline_steps.training.optimizer import build_optimizer
from pipeline_steps.training.selection import BestEpoch
from pipeline_steps.training.state import state_path
from pipeline_steps.training.update import Learner, Stepper

_HISTORY = pa.schema([("step", pa.int64()), ("epoch", pa.int64()), ("name", pa.string()), ("value", pa.float64())])


@dataclass(frozen=True)
class PhasePlan:
    """One phase of a training: its settings and objective. `prompt` (m, width) trains when it is a Parameter.

    `negative_text` says what becomes a hardest negative, where the objective needs them. `stepper` makes the steps in
    another way than `train_step`; `bank` is a memory bank, whose pairs come with every batch as they are evaluated.
    """

    name: str
    training: TrainingConfig
    objective: Objective
    negative_text: NegativeTextConfig | None = None
    prompt: torch.Tensor | None = None
    prompt_lr: float = 0.0
    prompt_weight_decay: float = 0.0
    stepper: Stepper | None = None
    bank: Path | None = None


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
        with metered(context.run, processes.device, processes.sum):
            history = train(context, bundle, plans, processes)
        if processes.leads:
            write_history(context, history)
            save_clip(context.paths["checkpoint"], bundle, extra_tensors)
            for plan in plans:
                _state_file(context, plan).unlink(missing_ok=True)
        processes.agree(True)  # who ends earlier could take the one that writes along


def train(
    context: StepContext, bundle: ClipBundle, plans: Sequence[PhasePlan], processes: Processes
) -> list[HistoryRow]:
    """Run the phases in order on the training split; `bundle.model` ends trained, on the CPU.

    Returns the history of all phases. Raises PipelineError for an empty split, a batch larger than the data, more
    frozen blocks than the text tower has, and what `fit` raises.
    """
    if context.threads:
        torch.set_num_threads(max(1, context.threads // local_world_size()))
    torch.manual_seed(context.seed)
    bundle.model.to(device=processes.device, memory_format=torch.channels_last)
    share_batch_statistics(bundle.model, processes)
    tables = {pairs: _rows(context, pairs) for pairs in {plan.training.pairs for plan in plans}}
    phases, first_step = [], 0
    for plan in plans:  # what is wrong with a later phase is told before the first one trains
        _freeze(bundle, plan)
        phases.append(_phase(context, bundle, plan, tables[plan.training.pairs], first_step))
        first_step += len(phases[-1].batches(processes))
    history: list[HistoryRow] = []
    for plan, phase in zip(plans, phases, strict=True):
        history += fit(_learner(context, bundle, plan, processes), phase)
    bundle.model.cpu()
    return history


def write_history(context: StepContext, history: Sequence[HistoryRow]) -> None:
    """Write the history in long form (step, epoch, name, value); store it, and the median pairs/s, with the run."""
    path = context.paths["history"]
    columns = list(zip(*history, strict=True)) or [()] * len(_HISTORY)
    table = pa.table([pa.array(column, field.type) for column, field in zip(columns, _HISTORY, strict=True)], _HISTORY)
    write_parquet(path, table)
    context.run.log_file(path)
    rates = [value for _, _, name, value in history if name == "pairs_per_second"]
    if rates:
        context.run.log_metrics({"median_pairs_per_second": statistics.median(rates)})


def _rows(context: StepContext, pairs: int | None) -> pa.Table:
    return training_rows(context.paths["pairs"], pairs, [*TRAINING_COLUMNS, TRUTH_COLUMNS[0]])


def _phase(context: StepContext, bundle: ClipBundle, plan: PhasePlan, rows: pa.Table, first_step: int) -> Phase:
    pairs, training = context.paths["pairs"], plan.training
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
    own = PairDataset(rows, pictures, transform, tokenizer, context.seed, negative)
    dataset: Pairs = own
    if plan.bank is not None:
        as_evaluated = PairDataset(rows, pictures, bundle.preprocess, tokenizer, context.seed)
        dataset = BankedPairs(own, as_evaluated, read_bank(plan.bank, len(rows)))
    return Phase(
        dataset=dataset,
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


def _freeze(bundle: ClipBundle, plan: PhasePlan) -> list[str]:
    """The names of what trains in a phase. Raises PipelineError for what cannot be frozen or selected."""
    blocks = frozen_text_blocks(bundle.model)
    if plan.training.freeze.text_blocks > blocks:
        raise PipelineError(
            f"{plan.name}.training.freeze.text_blocks = {plan.training.freeze.text_blocks}; "
            f"this text tower has {blocks} blocks, so allowed is 0 to {blocks}"
        )
    trained = apply_freeze(bundle.model, plan.training.freeze)
    if plan.training.selection == "validation" and set(trained) <= {"logit_scale", "logit_bias"}:
        raise PipelineError(
            f"{plan.name}.training.selection: validation compares recall on held-out pairs, which this phase cannot "
            "change: both towers are frozen. Set it to last, or let a tower train."
        )
    return trained


def _learner(context: StepContext, bundle: ClipBundle, plan: PhasePlan, processes: Processes) -> Learner:
    device, trained = processes.device, _freeze(bundle, plan)
    context.log.info("%s trains %d of %d tensors", plan.name, len(trained), len(list(bundle.model.parameters())))
    context.run.log_text("\n".join(trained) + "\n", f"trained_tensors_{plan.name}.txt")
    if plan.prompt is not None:
        plan.prompt.data = plan.prompt.data.to(device)
    trainable = plan.prompt if isinstance(plan.prompt, nn.Parameter) else None
    optimizer = build_optimizer(bundle.model, plan.training, trainable, plan.prompt_lr, plan.prompt_weight_decay)
    scaler = GradScaler(device.type, enabled=plan.training.precision == "fp16")
    return Learner(bundle.model, optimizer, plan.objective, processes, scaler, plan.prompt, plan.stepper)


def _state_file(context: StepContext, plan: PhasePlan) -> Path:
    return state_path(context.paths["checkpoint"]).with_suffix(f".{plan.name}.pt")
