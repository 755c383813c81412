"""One optimiser step on one global batch: exact for any number of processes and any chunk of it at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import TrainingConfig
from pipeline_steps.data.pairs import Batch, mixed_seed
from pipeline_steps.methods.base import Embeddings, LossOutput, Objective
from pipeline_steps.models.prompt import encode_negative_text
from pipeline_steps.training.distributed import Processes
from pipeline_steps.training.optimizer import trained_parameters

_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
_SMALLEST_LOSS_SCALE = 1.0


@dataclass
class Learner:
    """What is trained: an open_clip model, and the negative prompt (m, width) where the negatives are made by one.

    `scaler` scales the loss in fp16 and does nothing in other precisions. `stepper` takes the place of `train_step`.
    """

    model: Any
    optimizer: torch.optim.Optimizer
    objective: Objective
    processes: Processes
    scaler: GradScaler
    prompt: Tensor | None = None
    stepper: Stepper | None = None

    @property
    def scale_may_fall(self) -> bool:
        """Whether fp16's loss scale is above its least, so that a skipped step is a search for the right one."""
        return self.scaler.is_enabled() and self.scaler.get_scale() > _SMALLEST_LOSS_SCALE

    def trains(self, *, images: bool) -> bool:
        """Whether any weight of the image side, or else of the text side, is updated."""
        return any(
            parameter.requires_grad and name.startswith("visual.") == images
            for name, parameter in self.model.named_parameters()
            if name not in ("logit_scale", "logit_bias")
        )


@dataclass(frozen=True)
class Update:
    """What a step gave: the objective's output on the global batch, the gradient norm, and whether it was skipped."""

    output: LossOutput
    grad_norm: float
    skipped: bool


class NotFiniteError(PipelineError):
    """A loss or gradient norm that is not finite, before the optimiser step."""


@dataclass(frozen=True)
class Encoded:
    """Embeddings of pairs (n, d); `negative` where the objective asks for it."""

    image: Tensor
    text: Tensor
    negative: Tensor | None

    def parts(self) -> list[Tensor]:
        """Image, text and, where there are some, negatives."""
        return [part for part in (self.image, self.text, self.negative) if part is not None]


class Stepper(Protocol):
    """A method's own way to make a step, in place of `train_step`, with what it keeps from step to step."""

    def __call__(self, learner: Learner, settings: TrainingConfig, batch: Batch, step_seed: int) -> Update:
        """Update the weights on this process's share of a global batch."""
        ...

    def state(self) -> dict[str, Any]:
        """What a resume needs."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        ...


@dataclass(frozen=True)
class ForwardPass:
    """A global batch through the towers: `leaves` (N, d) are the embeddings of all processes, and collect gradients."""

    learner: Learner
    settings: TrainingConfig
    chunks: list[Batch]
    seed: int
    encoded: list[Encoded]
    leaves: list[Tensor]

    def back(self, *, keep_graph: bool = False) -> None:
        """Take this process's rows of the leaves' gradients into those of the weights, and clear them.

        `keep_graph`: another gradient will be taken back later.
        """
        replay = len(self.chunks) > 1
        start = self.learner.processes.share(len(self.leaves[0])).start
        for place, (chunk, known) in enumerate(zip(self.chunks, self.encoded, strict=True)):
            stop = start + len(chunk.rows)
            seed = mixed_seed(self.seed, place)
            own = encode(self.learner, self.settings, chunk, seed, known) if replay else known
            gradients = [None if leaf.grad is None else leaf.grad[start:stop] for leaf in self.leaves]
            _back(own, gradients, keep_graph=keep_graph and not replay)
            start = stop
        for leaf in self.leaves:
            leaf.grad = None


def forward(learner: Learner, settings: TrainingConfig, batch: Batch, seed: int, *, graph: bool = True) -> ForwardPass:
    """Encode this process's share of a global batch and gather all of it. Without `graph` no gradient can go back.

    With `chunk_size` the towers see so many pairs at a time: once without a graph, for the embeddings, and once more to
    take their gradient back (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited
    Setup"), with the same random numbers. A model with random layers draws other ones for other chunks or processes.
    """
    chunks = batch.chunks(settings.chunk_size)
    with torch.set_grad_enabled(graph and len(chunks) == 1):
        encoded = [encode(learner, settings, chunk, mixed_seed(seed, place)) for place, chunk in enumerate(chunks)]
    parts = zip(*(one.parts() for one in encoded), strict=True)
    leaves = [learner.processes.gather(torch.cat(part)).requires_grad_(graph) for part in parts]
    return ForwardPass(learner, settings, chunks, seed, encoded, leaves)


def train_step(learner: Learner, settings: TrainingConfig, batch: Batch, step_seed: int) -> Update:
    """Update the weights on this process's share of a global batch of N pairs.

    The embeddings of all processes are gathered; the objective and its gradient with respect to them are computed for
    the whole batch, alike in every process; each process takes its own rows' gradient back through the towers, and
    the gradients of the weights are summed.
    Raises NotFiniteError before the optimiser step where `on_nonfinite` is `stop`.
    """
    processes = learner.processes
    passed = forward(learner, settings, batch, mixed_seed(step_seed, processes.rank))
    learner.optimizer.zero_grad(set_to_none=True)
    output = objective_of(learner, passed.leaves, step_seed)
    if not processes.agree(bool(torch.isfinite(output.loss))):
        return not_finite(settings, "loss", output)
    torch.autograd.backward(learner.scaler.scale(output.loss))
    passed.back()
    sum_gradients(learner, settings)
    return apply_gradients(learner, settings, output)


def precision_of(settings: TrainingConfig, device: torch.device) -> torch.autocast:
    """The context in which the towers compute."""
    half = _HALF.get(settings.precision)
    return torch.autocast(device.type, half, enabled=half is not None)


def encode(
    learner: Learner, settings: TrainingConfig, batch: Batch, seed: int, known: Encoded | None = None
) -> Encoded:
    """Embeddings of one chunk in float32, computed in the precision of the settings.

    What does not train is computed without a graph, or taken from `known`, the same chunk's embeddings.
    Raises PipelineError when the objective needs negatives and the batch has no text for them.
    """
    model, device, graph = learner.model, learner.processes.device, torch.is_grad_enabled()
    torch.manual_seed(seed)
    with precision_of(settings, device):
        if known is not None and not learner.trains(images=True):
            image_ND = known.image
        else:
            images = batch.images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
            with torch.set_grad_enabled(graph and learner.trains(images=True)):
                image_ND = model.encode_image(images, normalize=True)
        if known is not None and not learner.trains(images=False):
            text_ND = known.text
        else:
            text_ND = model.encode_text(batch.tokens.to(device, non_blocking=True), normalize=True)
        negative_ND = _negatives(learner, settings, batch) if learner.objective.needs_negatives else None
    return Encoded(image_ND.float(), text_ND.float(), None if negative_ND is None else negative_ND.float())


def _negatives(learner: Learner, settings: TrainingConfig, batch: Batch) -> Tensor:
    if batch.negative_tokens is None:
        raise PipelineError("this objective needs negatives and these batches hold no text for them")
    tokens_NL = batch.negative_tokens.to(learner.processes.device, non_blocking=True)
    if learner.prompt is None:
        return learner.model.encode_text(tokens_NL, normalize=True)  # type: ignore[no-any-return]
    return encode_negative_text(learner.model, tokens_NL, learner.prompt, settings.truncation)


def objective_of(learner: Learner, parts: Sequence[Tensor], step_seed: int) -> LossOutput:
    """The objective on the embeddings of a whole batch; NaN where they are not finite, which no objective need bear."""
    scale = learner.model.logit_scale.exp()
    if not all(bool(torch.isfinite(part).all()) for part in parts):
        return LossOutput(scale * torch.nan)
    negative = parts[2] if len(parts) > 2 else None
    return learner.objective(Embeddings(parts[0], parts[1], scale, negative, step_seed))


def _back(own: Encoded, gradients: Sequence[Tensor | None], *, keep_graph: bool) -> None:
    pairs = [
        (part, gradient)
        for part, gradient in zip(own.parts(), gradients, strict=True)
        if part.requires_grad and gradient is not None
    ]
    if pairs:
        parts, of_parts = zip(*pairs, strict=True)
        torch.autograd.backward(parts, of_parts, retain_graph=keep_graph)


def sum_gradients(learner: Learner, settings: TrainingConfig) -> None:
    """Sum the weights' gradients over the processes, each of which has that of its own rows.

    The scale's gradient is whole in every process already; the first one's is taken, so that processes on different
    hardware cannot drift apart in it.
    """
    scale, processes = learner.model.logit_scale, learner.processes
    parameters = trained_parameters(learner.optimizer)
    if scale.grad is not None and not processes.leads:
        scale.grad.zero_()
    processes.sum_gradients(parameters)
    if settings.gather == "official":
        for parameter in parameters:
            if parameter is not scale and parameter.grad is not None:
                parameter.grad.div_(processes.size)


def apply_gradients(learner: Learner, settings: TrainingConfig, output: LossOutput) -> Update:
    """Clip the summed gradients and step; or skip the step, or stop, where they are not finite."""
    scale, scaler = learner.model.logit_scale, learner.scaler
    parameters = trained_parameters(learner.optimizer)
    scaler.unscale_(learner.optimizer)
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, settings.grad_clip_norm or math.inf))
    if math.isfinite(norm):
        scaler.step(learner.optimizer)
        scaler.update()
        _clamp(scale, settings.max_logit_scale)
        return Update(output, norm, skipped=False)
    before, searching = scaler.get_scale(), learner.scale_may_fall
    scaler.update()
    if scaler.is_enabled():
        scaler.update(max(before * scaler.get_backoff_factor(), _SMALLEST_LOSS_SCALE))
    if searching:
        return Update(output, norm, skipped=True)
    return not_finite(settings, "gradient norm", output, norm)


def _clamp(logit_scale: Tensor, bound: float | None) -> None:
    if bound is not None:
        with torch.no_grad():
            logit_scale.clamp_(0, math.log(bound))


def not_finite(settings: TrainingConfig, what: str, output: LossOutput, value: float = math.nan) -> Update:
    """A skipped step, or NotFiniteError, as `on_nonfinite` says."""
    if settings.on_nonfinite == "skip":
        return Update(output, value, skipped=True)
    terms = ", ".join(f"{name} = {float(term):.4g}" for name, term in output.terms.items())
    value = float(output.loss.detach()) if what == "loss" else value
    raise NotFiniteError(f"the {what} is {value} ({terms or 'one term'})")
