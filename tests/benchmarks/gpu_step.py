"""One training step of both phases on a GPU: pairs/s, share of the chip's peak, memory, and the transport's share.

    python -m tests.benchmarks.gpu_step --peak 989     # ViT-B/16 and ViT-B/32, 224 px, bf16, batch 2048

`ours` is the training loop's own step. `plain` is the same mathematics as it is usually written: the whole batch at
once, attention without the fused kernel, default memory layout, AdamW parameter by parameter, and in phase 2 the
textbook's objective. Model operations are counted, without what chunks compute twice; a share is their rate over the
vendor's peak (--peak) or over a large bf16 matrix product measured first.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from msgspec.structs import replace
from tabulate import tabulate
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline_steps.core.config import load_section, read_yaml, resolve
from pipeline_steps.core.cost import counted, training_operations
from pipeline_steps.core.schema import LearnPromptConfig, TrainingConfig, UnlearnConfig
from pipeline_steps.data.pairs import Batch
from pipeline_steps.methods.base import Embeddings
from pipeline_steps.methods.ncu import objectives
from pipeline_steps.models.clip import create_clip
from pipeline_steps.models.freeze import apply_freeze, set_training_mode
from pipeline_steps.models.prompt import encode_negative_text, new_prompt
from pipeline_steps.training.distributed import Processes
from pipeline_steps.training.optimizer import build_optimizer
from pipeline_steps.training.update import Learner, train_step
from tests.benchmarks.measure import Samples, machine_in_words, run_once
from tests.benchmarks.textbook import textbook_unlearning
from tests.unit.paths import CONFIG

HEADERS = [
    "model", "phase", "step", "chunk", "ms", "pairs/s", "TFLOP/s", "of the peak", "of the product", "GiB",
    "transport ms", "of the step", "iterations",
]  # fmt: skip


@dataclass(frozen=True)
class Given:
    """What the command line asks for."""

    batch: int
    steps: int
    warmup: int
    device: torch.device
    peak: float | None
    product: float


@dataclass(frozen=True)
class Case:
    """A phase of a model, by this pipeline or plain, so many pairs at a time."""

    model: str
    phase: str
    ours: bool
    chunk: int | None


def main(arguments: list[str] | None = None) -> None:
    """Measure every case and print the Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["ViT-B-16", "ViT-B-32"], help="open_clip names or JSON files")
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--chunks", type=int, nargs="+", default=[0, 512], help="pairs at a time; 0: the whole batch")
    parser.add_argument("--steps", type=int, default=10, help="steps to take the median of")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--device", type=torch.device, default="cuda")
    parser.add_argument("--peak", type=float, help="the vendor's dense bf16 peak, TFLOP/s: 989 for an H100 or H200")
    parser.add_argument("--product-size", type=int, default=8192, help="rows of the matrix product measured first")
    parser.add_argument("--out", type=Path, help="a file for the table")
    asked = parser.parse_args(arguments)
    product = matrix_product(asked.product_size, asked.device)
    given = Given(asked.batch, asked.steps, asked.warmup, asked.device, asked.peak, product)
    cases = [
        Case(model, phase, ours, chunk or None)
        for model in asked.models
        for phase in ("learn_prompt", "unlearn")
        for ours in (True, False)
        for chunk in (asked.chunks if ours else [0])
    ]
    rows = [measure(case, given) for case in cases]
    text = (
        f"{machine_in_words(asked.device)}; bf16, batch {asked.batch:,}. A bf16 product of {asked.product_size:,} "
        f"squared runs at {product / 1e12:,.1f} TFLOP/s.\n\n{tabulate(rows, HEADERS, tablefmt='pipe')}\n"
    )
    print(text)
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")


def matrix_product(size: int, device: torch.device) -> float:
    """Operations per second of a bf16 product of two random matrices (size, size), the best of ten."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    samples = Samples()
    for _ in range(12):
        run_once(lambda: {"none": float((left @ right).shape[0])}, samples, device)
    return 2 * size**3 / min(samples.seconds[2:])


def measure(case: Case, given: Given) -> list[str]:
    """A line of the table; a case that does not fit the memory says so."""
    samples, timed = Samples(), Transport(given.device)
    try:
        with timed.watching():
            call = prepared(case, given)
            for _ in range(given.warmup + given.steps):
                run_once(call, samples, given.device)
    except torch.OutOfMemoryError:
        return [case.model, case.phase, _name(case), str(case.chunk or given.batch), "out of memory"]
    finally:
        gc.collect()
    seconds = statistics.median(samples.seconds[given.warmup :])
    rate = operations(case, given) / seconds
    line = [case.model, case.phase, _name(case), str(case.chunk or given.batch), f"{1e3 * seconds:,.1f}"]
    line += [f"{given.batch / seconds:,.0f}", f"{rate / 1e12:,.2f}"]
    line += [f"{rate / (given.peak * 1e12):.1%}" if given.peak else "-", f"{rate / given.product:.1%}"]
    whole = (
        torch.cuda.max_memory_allocated(given.device) / 2**30
        if given.device.type == "cuda"
        else samples.peak_mib / 1024
    )
    line += [f"{whole:.1f}"]
    taken = statistics.median(timed.seconds()[given.warmup :]) if timed.spans else None
    line += (
        ["-", "-", "-"] if taken is None else [f"{1e3 * taken:.1f}", f"{taken / seconds:.1%}", str(timed.iterations)]
    )
    return line


def prepared(case: Case, given: Given) -> Callable[[], dict[str, float]]:
    """The step of this case, ready to be called: model, prompt, optimiser and a batch on the device."""
    torch.manual_seed(0)
    bundle, settings = create_clip(case.model), section(case, given)
    layout = torch.channels_last if case.ours else torch.contiguous_format
    model = bundle.model.to(device=given.device, memory_format=layout)
    phase1 = isinstance(settings, LearnPromptConfig)
    prompt = new_prompt(model, 8, 0.02, torch.Generator().manual_seed(0)).data.to(given.device)
    prompt = nn.Parameter(prompt, requires_grad=phase1)
    apply_freeze(model, settings.training.freeze)
    set_training_mode(model, settings.training.freeze)
    objective = (
        objectives.HardestNegative(settings)
        if isinstance(settings, LearnPromptConfig)
        else objectives.Unlearning(settings)
    )
    optimizer = build_optimizer(model, settings.training, prompt if phase1 else None, 1e-4, 0.2)
    if not case.ours:
        optimizer = torch.optim.AdamW(optimizer.param_groups, fused=False, foreach=False)
    scaler = GradScaler(given.device.type, enabled=False)
    learner = Learner(model, optimizer, objective, Processes(0, 1, given.device), scaler, prompt)
    batch = made_batch(bundle, given)
    return partial(_step if case.ours else _plain_step, learner, settings, batch)


def section(case: Case, given: Given) -> LearnPromptConfig | UnlearnConfig:
    """The phase's section of config/config.yaml with this case's batch, chunk and precision."""
    kind = LearnPromptConfig if case.phase == "learn_prompt" else UnlearnConfig
    settings = load_section(resolve(read_yaml([CONFIG])), case.phase, kind)
    training = replace(settings.training, batch_size=given.batch, chunk_size=case.chunk, precision="bf16")
    return replace(settings, training=training)


def made_batch(bundle: object, given: Given) -> Batch:
    """Random pictures and captions of four to thirteen words, on the device."""
    size, tokenizer = bundle.model.visual.image_size, bundle.tokenizer  # type: ignore[attr-defined]
    side = size[0] if isinstance(size, tuple) else size
    captions = [" ".join(["a picture of", *["river"] * (1 + row % 10)]) for row in range(given.batch)]
    tokens = tokenizer(captions).to(given.device)
    images = torch.randn(given.batch, 3, side, side, device=given.device)
    return Batch(torch.arange(given.batch), images.contiguous(memory_format=torch.channels_last), tokens, tokens)


def operations(case: Case, given: Given) -> float:
    """Model operations of a step: forward once, backward twice that where something trains; two texts a pair."""
    training: TrainingConfig = replace(section(case, given).training, epochs=1, pairs=None, chunk_size=None)
    return training_operations(training, counted(case.model), given.batch, 2)


def _step(learner: Learner, settings: LearnPromptConfig | UnlearnConfig, batch: Batch) -> dict[str, float]:
    return {"loss": float(train_step(learner, settings.training, batch, 0).output.loss.detach())}


def _plain_step(learner: Learner, settings: LearnPromptConfig | UnlearnConfig, batch: Batch) -> dict[str, float]:
    model, device = learner.model, learner.processes.device
    learner.optimizer.zero_grad()
    with torch.autocast(device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        images = batch.images.contiguous()
        image_ND = model.encode_image(images, normalize=True)
        text_ND = model.encode_text(batch.tokens, normalize=True)
        negative_ND = encode_negative_text(model, batch.tokens, learner.prompt, settings.training.truncation)
        parts = [part.float() for part in (image_ND, text_ND, negative_ND)]
    embeddings = Embeddings(parts[0], parts[1], model.logit_scale.exp(), parts[2])
    if isinstance(settings, UnlearnConfig):
        loss, _ = textbook_unlearning(embeddings, settings)
    else:
        loss = learner.objective(embeddings).loss
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(model.parameters(), settings.training.grad_clip_norm or float("inf"), foreach=False)
    learner.optimizer.step()
    return {"loss": float(loss.detach())}


class Transport:
    """How long each call of the transport takes on the device's own clock, and its iterations."""

    def __init__(self, device: torch.device) -> None:
        self.spans: list[tuple[torch.cuda.Event, torch.cuda.Event] | float] = []
        self.iterations, self._on_gpu = 0, device.type == "cuda"

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time every plan that an objective asks for."""
        solve = objectives.masked_plan

        def timed(*arguments: object) -> object:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2)) if self._on_gpu else (None, None)
            if start:
                start.record()
            solved = solve(*arguments)  # type: ignore[arg-type]
            if end:
                end.record()
            self.spans.append((start, end) if start and end else solved.seconds)
            self.iterations = solved.iterations
            return solved

        with mock.patch.object(objectives, "masked_plan", timed):
            yield

    def seconds(self) -> list[float]:
        """Every call's seconds, in order."""
        return [span if isinstance(span, float) else span[0].elapsed_time(span[1]) / 1e3 for span in self.spans]


def _name(case: Case) -> str:
    return "ours" if case.ours else "plain"


if __name__ == "__main__":
    main()
