"""Ctrl-C to Snakemake on this machine: what runs keeps its state and ends, and what has ended well counts."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

_LOOK_SECONDS = 0.5


def end_steps_on_interrupt(say: Callable[[str], None]) -> None:
    """Have the first Ctrl-C tell every step that this process started to stop, and this process to start no more.

    Snakemake alone would wait for a training to its end and then throw it away. A second Ctrl-C is Snakemake's own.
    Call it in the main thread. Where a shell has a process in the background ignore Ctrl-C, it stays ignored.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        return

    def handler(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Thread(target=_tell_children, name="tell-children", daemon=True).start()
        os.kill(os.getpid(), signal.SIGTERM)  # what Snakemake takes for: finish what runs, and start nothing
        say("Ctrl-C: running trainings keep their state and end. The next run goes on from there.")

    signal.signal(signal.SIGINT, handler)


def _tell_children() -> None:
    """Send SIGTERM once to every process that this one started in its own session, those too that only just start."""
    import psutil

    told: set[psutil.Process] = set()
    session = os.getsid(0)
    while True:
        for child in set(psutil.Process().children()) - told:
            told.add(child)
            try:
                if os.getsid(child.pid) == session:  # who sends the records to MLflow has one of its own
                    child.terminate()
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        time.sleep(_LOOK_SECONDS)
