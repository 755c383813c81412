"""The state of an interrupted training, beside the declared output and under a name of its own."""

from __future__ import annotations

import io
import logging
import pickle
from pathlib import Path
from typing import Any

import torch

from pipeline_steps.core.files import require_free_disk, whole_file

LOG = logging.getLogger("pipeline_steps")


def state_path(checkpoint: Path) -> Path:
    """Where the state of the training that will write `checkpoint` stands."""
    return checkpoint.with_name(f"{checkpoint.name}.resume.pt")


def save_state(path: Path, fingerprint: str, state: dict[str, Any]) -> None:
    """Write the state whole or not at all. `fingerprint` names settings and inputs that it belongs to.

    Raises PipelineError when the disk is full (torch.save itself would give an error of its own).
    """
    buffer = io.BytesIO()
    torch.save({"fingerprint": fingerprint, **state}, buffer)
    require_free_disk(path.parent, buffer.getbuffer().nbytes)
    with whole_file(path) as partial:
        partial.write_bytes(buffer.getbuffer())


def load_state(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """The state for this very training, or None. A torn file and one of another training are named and left aside."""
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["fingerprint"]
    except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        LOG.warning("%s is torn or foreign and is not used (%s); training starts from the beginning", path, error)
        return None
    if found != fingerprint:
        LOG.warning("%s belongs to other settings or inputs and is not used; training starts from the beginning", path)
        return None
    return dict(state)
