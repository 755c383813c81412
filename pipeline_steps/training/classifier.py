"""Training of a classifier on a selection of noisily labelled pictures, epoch by epoch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from tqdm.auto import tqdm

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.process import Paused, ignore_stops, stop_noted
from pipeline_steps.core.schema import TrainClassifierConfig
from pipeline_steps.data.pairs import mixed_seed, seeded
from pipeline_steps.methods.clipcleaner.mixfix import balanced_order, mixed, mixfix
from pipeline_steps.training.state import load_state, save_state

LOG = logging.getLogger("pipeline_steps")
_POLICIES = {
    "cifar10": v2.AutoAugmentPolicy.CIFAR10, "imagenet": v2.AutoAugmentPolicy.IMAGENET,
    "svhn": v2.AutoAugmentPolicy.SVHN,
}  # fmt: skip
Integers = npt.NDArray[np.int64]


class ClassifierPictures(Dataset[tuple[int, Tensor]]):
    """Place i as (i, picture (3, S, S)): of the row `row[i]`, through `transform` seeded by (seed, epoch, i)."""

    def __init__(
        self, picture: Callable[[int], Image.Image], row: Integers, transform: Callable[[Any], Tensor], seed: int
    ) -> None:
        self._picture, self._row, self._transform, self._seed = picture, row, transform, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, place: int) -> tuple[int, Tensor]:
        picture = self._picture(int(self._row[place]))
        with seeded(mixed_seed(self._seed, self.epoch, place)):
            return place, self._transform(picture)


def transforms_of(settings: TrainClassifierConfig) -> tuple[Callable[[Any], Tensor], Callable[[Any], Tensor]]:
    """The transform of training (crop, flip, policy) and that of evaluation."""
    size = settings.image_size
    last = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(settings.mean, settings.std)]
    policy = [v2.AutoAugment(_POLICIES[settings.policy])] if settings.policy in _POLICIES else []
    random = [v2.RandomCrop(size, padding=settings.crop_padding), v2.RandomHorizontalFlip(), *policy]
    return v2.Compose([v2.Resize((size, size)), *random, *last]), v2.Compose([v2.Resize((size, size)), *last])


@dataclass
class Sources:
    """Pictures to train on, the same as they are evaluated, and their labels. Those of the test split are not here.

    `label_N` and `selected_N` are of the training pictures; `truth_N`, None if unknown, is for metrics alone.
    """

    training: ClassifierPictures
    plain: ClassifierPictures
    label_N: Tensor
    selected_N: Tensor
    truth_N: Tensor | None
    classes: int


@dataclass
class _Course:
    """The labels and the selection that are trained on now, and what has been measured, by epoch."""

    label_N: Tensor
    selected_N: Tensor
    done: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def train_classifier(
    model: nn.Module,
    sources: Sources,
    settings: TrainClassifierConfig,
    *,
    seed: int,
    device: torch.device,
    state_file: Path,
    fingerprint: str,
    on_epoch: Callable[[int, dict[str, float]], None],
) -> list[dict[str, float]]:
    """Train `model` in place; the measures of every epoch. The state is kept after each, and a rerun goes on from it.

    SGD over N // batch_size batches an epoch. Raises PipelineError when a loss is not finite, and Paused on a signal.
    """
    model.to(device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(settings.milestones), settings.lr_decay)
    course = _Course(sources.label_N.clone(), sources.selected_N.clone())
    _resume(model, optimizer, schedule, course, state_file, fingerprint)
    for number, measured in enumerate(course.history):
        on_epoch(number, measured)
    with stop_noted() as stop_asked:
        for epoch in range(course.done, settings.epochs):
            measured = {"loss": _epoch(model, optimizer, sources, course, settings, seed, device, stop_asked)}
            schedule.step()
            if settings.mixfix:
                probability = predict(model, sources.plain, settings, device)
                course.label_N, course.selected_N = mixfix(probability, sources.label_N, sources.selected_N, settings)
            measured |= _measures(sources, course)
            course.history.append(measured)
            course.done = epoch + 1
            on_epoch(epoch, measured)
            _keep(model, optimizer, schedule, course, state_file, fingerprint)
            _stop_if(stop_asked, epoch + 1)
    return course.history


@torch.no_grad()
def predict(
    model: nn.Module, pictures: ClassifierPictures, settings: TrainClassifierConfig, device: torch.device
) -> Tensor:
    """Class probabilities (N, K) on the CPU, in the order of the pictures."""
    model.eval()
    loader = DataLoader(
        pictures, 4 * settings.batch_size, num_workers=settings.workers, worker_init_fn=ignore_stops
    )  # fmt: skip
    return torch.cat([model(images.to(device)).float().softmax(dim=1).cpu() for _, images in loader])


def _epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, sources: Sources, course: _Course,
    settings: TrainClassifierConfig, seed: int, device: torch.device, stop_asked: Callable[[], str],
) -> float:  # fmt: skip
    """The mean loss of the epoch after those that are done."""
    model.train()
    sources.training.epoch = epoch = course.done
    batches = list(_batches(sources, course, settings, mixed_seed(seed, epoch)))
    loader = DataLoader(
        sources.training, batch_sampler=batches, num_workers=settings.workers, worker_init_fn=ignore_stops
    )  # fmt: skip
    losses = []
    for number, (places, images) in enumerate(tqdm(loader, f"epoch {epoch + 1}", mininterval=5.0, unit="batch")):
        labels = course.label_N[places].to(device)
        inputs, targets = mixed(
            images.to(device), labels, classes=sources.classes, beta=settings.mixup_beta,
            seed=mixed_seed(seed, epoch, number),
        )  # fmt: skip
        torch.manual_seed(mixed_seed(seed, epoch, number, 1))
        loss = nn.functional.cross_entropy(model(inputs), targets)
        if not bool(torch.isfinite(loss)):
            raise PipelineError(
                f"the loss is {float(loss)} in epoch {epoch + 1}, batch {number}; lower train_classifier.lr"
            )
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
        _stop_if(stop_asked, epoch)
    return float(np.mean(losses))


def _stop_if(asked: Callable[[], str], done: int) -> None:
    if asked():
        raise Paused(asked(), f"the classifier is kept after {done} epochs")


def _batches(sources: Sources, course: _Course, settings: TrainClassifierConfig, seed: int) -> Iterator[list[int]]:
    """As many batches as all pictures would make, of class-balanced draws of the selected ones, again and again."""
    chosen = course.selected_N.nonzero()[:, 0].numpy()
    wanted = max(1, len(sources.training) // settings.batch_size) * settings.batch_size
    drawn: list[int] = []
    for turn in range(wanted):
        if len(drawn) >= wanted:
            break
        drawn += chosen[balanced_order(course.label_N[chosen].numpy(), mixed_seed(seed, turn))].tolist()
    for start in range(0, wanted, settings.batch_size):
        yield drawn[start : start + settings.batch_size]


def _measures(sources: Sources, course: _Course) -> dict[str, float]:
    found = {"selected": float(course.selected_N.sum())}
    if sources.truth_N is not None:
        taken = course.label_N[course.selected_N] == sources.truth_N[course.selected_N]
        found["label_precision"] = float(taken.double().mean())
    return found


def _keep(
    model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any, course: _Course, path: Path, fingerprint: str
) -> None:
    save_state(path, fingerprint, {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(),
        "label": course.label_N, "selected": course.selected_N, "done": course.done, "history": course.history,
    })  # fmt: skip


def _resume(
    model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any, course: _Course, path: Path, fingerprint: str
) -> None:
    state = load_state(path, fingerprint)
    if state is None:
        return
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    course.label_N, course.selected_N = state["label"], state["selected"]
    course.done, course.history = state["done"], list(state["history"])
    LOG.info("the classifier goes on after epoch %d", course.done)
