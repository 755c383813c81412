"""One training in one or many processes (torchrun), on one or many machines."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.process import keep_freed_memory, rank, world_size


@dataclass(frozen=True)
class Processes:
    """The processes of this training: `size` of them, this one is number `rank` and works on `device`."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process is the one that logs and writes."""
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """This process's rows of a global batch. Raises PipelineError when the batch does not divide evenly."""
        if batch_size % self.size:
            raise PipelineError(
                f"training.batch_size = {batch_size} cannot be shared evenly by {self.size} processes; "
                f"allowed: a multiple of {self.size}, or another number of processes"
            )
        own = batch_size // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def gather(self, own: Tensor) -> Tensor:
        """The rows of every process, in the order of their ranks; without gradient."""
        if self.size == 1:
            return own.detach()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own.detach().contiguous())
        return torch.cat(parts)

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its sum over the processes; those without one stay so."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, summed in zip(gradients, torch.split(flat, [one.numel() for one in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a small tensor over the processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def agree(self, fact: bool) -> bool:
        """Whether the fact holds in every process."""
        if self.size == 1:
            return fact
        return float(self.sum(torch.tensor(float(fact), device=self.device))) == self.size


def share_batch_statistics(model: nn.Module, processes: Processes) -> None:
    """Let batch normalisation see the batch of all processes, in place; the parameters stay the same objects.

    torch has this for GPUs only; elsewhere, and alone, nothing changes. timm's conversion keeps the activations that
    its normalisation layers hold, which torch's own would drop.
    """
    if processes.size > 1 and processes.device.type == "cuda":
        from timm.layers.norm_act import convert_sync_batchnorm

        convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]


@contextmanager
def process_group() -> Iterator[Processes]:
    """Join the processes that torchrun started: nccl with one GPU each where there are GPUs, else gloo; or be alone.

    Raises PipelineError when there are more processes on this machine than GPUs.
    """
    device = _device()
    if device.type == "cpu":
        keep_freed_memory()
    if world_size() == 1:
        yield Processes(0, 1, device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield Processes(rank(), world_size(), device)
    dist.destroy_process_group()  # not after an error: it would wait for processes that wait for this one


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local, visible = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= visible:
        raise PipelineError(
            f"process {local} of this machine has no GPU of its own ({visible} visible); start at most {visible} "
            "processes (--nproc-per-node), or hide the GPUs with CUDA_VISIBLE_DEVICES= to train on the CPU"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
