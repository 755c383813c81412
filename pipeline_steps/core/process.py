"""This process: its end by a signal, how another one finds out whether it lives, its memory."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess


_STOPS = (signal.SIGTERM, signal.SIGINT)


class Terminated(BaseException):
    """A signal told a running step to stop: `by` is its name. Its run ends as KILLED."""

    def __init__(self, by: str = signal.SIGTERM.name, kept: str = "") -> None:
        super().__init__(f"{by}; {kept}" if kept else by)
        self.by = by


class Paused(Terminated):
    """The same, of a step that has kept what it did since it started; run again, it goes on from there."""


def rank() -> int:
    """The number of this process among those that torchrun started together; 0 leads, logs and writes."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes torchrun started together; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """How many of them torchrun started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def set_for_children(package: str, results: str) -> None:
    """Have every process that starts from here find the package and the results folder, whatever a shell would read."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    os.environ["PIPELINE_RESULTS_DIR"] = results


def keep_freed_memory() -> None:
    """Have malloc keep up to 1 GiB that was freed, instead of returning it after every batch to fault it in again.

    A tensor on the CPU is such memory. glibc only (mallopt(3)); elsewhere nothing happens.
    """
    trim_threshold, mmap_threshold = -1, -3
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((mmap_threshold, 2**25), (mmap_threshold, 2**30), (trim_threshold, 2**30)):
            mallopt(option, value)  # an older glibc takes at most 32 MiB for mmap_threshold


@contextmanager
def stop_raises() -> Iterator[None]:
    """Turn SIGTERM and Ctrl-C into Terminated inside the block. Once one came, the process ends and takes no other."""

    def handler(number: int, _frame: FrameType | None) -> None:
        ignore_stops()
        raise Terminated(signal.Signals(number).name)

    with _stop_handler(handler):
        yield


@contextmanager
def stop_noted() -> Iterator[Callable[[], str]]:
    """Inside the block SIGTERM and Ctrl-C interrupt nothing; the function given says which one came, if one did.

    No other is taken.
    """
    came: list[str] = []

    def handler(number: int, _frame: FrameType | None) -> None:
        ignore_stops()
        came.append(signal.Signals(number).name)

    with _stop_handler(handler):
        yield lambda: came[0] if came else ""


def ignore_stops(_worker: int = 0) -> None:
    """Take no SIGTERM and no Ctrl-C any more. A process that loads data ends with its parent, which decides."""
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def failing_cleanly() -> Iterator[None]:
    """See that this process, when the block fails, ends, and says why before it does.

    The error's traceback may hold a loader of data. Its processes ignore SIGTERM, which is all that Python sends them
    at its exit before it waits for them, so they are killed. Another signal is ignored: torchrun sends SIGTERM to every
    process when one has failed.
    """
    before = _children()
    try:
        yield
    except BaseException:
        ignore_stops()
        left = _children() - before
        if left:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises where one is killed
        for child in left:
            if child.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)  # joblib's have no method for it
        raise


def _children() -> set[BaseProcess]:
    """The processes that multiprocessing started here, where something has loaded it."""
    known = sys.modules.get("multiprocessing.process")
    return set(known.active_children()) if known else set()


@contextmanager
def _stop_handler(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle what tells this process to stop, but for a Ctrl-C that a shell has it ignore in the background."""
    before = {number: signal.getsignal(number) for number in _STOPS}
    taken = [number for number in _STOPS if number == signal.SIGTERM or before[number] != signal.SIG_IGN]
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in taken:
            if signal.getsignal(number) == handler:
                signal.signal(number, before[number])


def process_tags() -> dict[str, str]:
    """Which process a run belongs to (host, pid, start), of how many, in which Slurm job; and the git commit."""
    import psutil

    process = psutil.Process()
    tags = {"host": socket.gethostname(), "pid": str(process.pid), "process_start": f"{process.create_time():.2f}"}
    tags |= {"processes": str(world_size()), "slurm_job": os.environ.get("SLURM_JOB_ID", "")}
    return {name: value for name, value in tags.items() if value} | {"git_commit": _git_commit()}


def _git_commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    except OSError:
        return "unknown"


def is_alive(tags: Mapping[str, str]) -> bool:
    """Whether the process that `process_tags` described still runs on this machine."""
    import psutil

    try:
        process = psutil.Process(int(tags.get("pid", "-1")))
        # The boot time that this rests on moves by a second when the clock is corrected.
        return bool(abs(process.create_time() - float(tags.get("process_start", "0"))) < 2.0)
    except (psutil.NoSuchProcess, ValueError):
        return False


def peak_memory_mib() -> float:
    """The largest resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
