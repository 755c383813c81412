from __future__ import annotations

import hashlib
import io
import logging
import resource
from pathlib import Path

import pytest
import torch

from pipeline_steps.core.errors import FullDiskError
from pipeline_steps.training.state import load_state, save_state


def test_a_state_comes_back_for_its_own_training(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state(path, "mine", {"epoch": 3, "model": {"weight": torch.arange(4.0)}})
    found = load_state(path, "mine")
    assert found is not None
    assert found["epoch"] == 3
    assert torch.equal(found["model"]["weight"], torch.arange(4.0))
    assert load_state(tmp_path / "none.pt", "mine") is None


@pytest.mark.parametrize("damage", ["torn", "flipped", "foreign", "empty", "code"])
def test_a_torn_or_foreign_state_is_named_and_left_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    path = tmp_path / "state.pt"
    save_state(path, "mine", {"epoch": 3, "model": torch.zeros(1000)})
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:2000])
    elif damage == "flipped":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "code":
        stream = io.BytesIO()
        torch.save({"fingerprint": Path("/")}, stream)
        path.write_bytes(stream.getvalue() + hashlib.sha256(stream.getvalue()).digest())
    logger = logging.getLogger("pipeline_steps")
    logger.propagate = True
    with caplog.at_level(logging.WARNING, logger="pipeline_steps"):
        assert load_state(path, "other" if damage == "foreign" else "mine") is None
    assert str(path) in caplog.text
    words = {"foreign": "other settings", "code": "is foreign"}
    assert words.get(damage, "is torn or is no state file") in caplog.text


def test_a_full_disk_is_told_as_one_and_the_older_state_stays(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state(path, "mine", {"epoch": 1, "model": torch.zeros(10)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(FullDiskError, match="no room to write"):
            save_state(path, "mine", {"epoch": 2, "model": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    found = load_state(path, "mine")
    assert found is not None
    assert found["epoch"] == 1
    assert [one.name for one in tmp_path.iterdir()] == ["state.pt"]
