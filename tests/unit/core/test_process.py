from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.usefixtures("warm")  # what is taken, written and freed here is so in a fork too

_FAULTS = """
import resource, sys
import torch
from pipeline_steps.core.process import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for round in range(20):
    if round == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str) -> int:
    """Page faults of 15 rounds in which 64 MiB are taken, written and freed."""
    done = subprocess.run([sys.executable, "-c", _FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_memory_that_was_freed_is_not_faulted_in_again() -> None:
    left = _faults("leave")
    # A machine that takes pages back while this runs can only add to them: one run that it leaves alone will do.
    assert any(_faults("keep") * 5 < left for _ in range(10)), "without it every round pays for its pages again"
