from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch

from pipeline_steps.import_reference import STEP
from tests.unit.models.architectures import make
from tests.unit.step_runs import command, runs_of


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))


def sections(tmp_path: Path, **changes: object) -> dict[str, object]:
    return {
        "model": {"architecture": str(tmp_path / "small_clip.json")},
        "import_reference": {"weights": None, "format": "open_clip", "sha256": None, **changes},
    }


def test_a_file_becomes_a_checkpoint_and_its_provenance_is_kept(tmp_path: Path) -> None:
    model, weights, folder = make("clip", tmp_path).model, tmp_path / "w.pt", tmp_path / "checkpoint"
    torch.save({"state_dict": model.state_dict()}, weights)
    assert command(STEP, settings=sections(tmp_path), method="reference", weights=weights, checkpoint=folder) == 0
    loaded = open_clip.create_model(f"local-dir:{folder}")
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    provenance = json.loads((folder / "provenance.json").read_text())
    (run,) = runs_of("import_reference")
    assert provenance["source"] == str(weights)
    assert {key: run.tags[f"provenance.{key}"] for key in provenance} == provenance
    assert run.tags["input.weights.sha256"] == provenance["sha256"]


def test_the_file_may_come_from_the_configuration(tmp_path: Path) -> None:
    torch.save(make("clip", tmp_path).model.state_dict(), tmp_path / "w.pt")
    settings = sections(tmp_path, weights=str(tmp_path / "w.pt"))
    assert command(STEP, settings=settings, method="reference", checkpoint=tmp_path / "checkpoint") == 0


def test_a_wrong_file_fails_in_words_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(make("timm", tmp_path).model.state_dict(), tmp_path / "w.pt")
    make("clip", tmp_path)
    folder = tmp_path / "checkpoint"
    assert command(
        STEP, settings=sections(tmp_path), method="reference", weights=tmp_path / "w.pt", checkpoint=folder
    ) == 1  # fmt: skip
    assert "w.pt does not fit the model" in capsys.readouterr().err
    assert not folder.exists()
