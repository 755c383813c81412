from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch

from pipeline_steps.core.config import read_yaml, resolve
from pipeline_steps.core.files import write_json
from pipeline_steps.core.methods import METHODS
from pipeline_steps.export_model import STEP
from pipeline_steps.models.clip import save_clip
from tests.results_tree import write_tree
from tests.unit.models.architectures import make
from tests.unit.paths import CONFIG
from tests.unit.step_runs import command, runs_of

CONFIGURED = resolve(read_yaml([CONFIG]))
SETTINGS: dict[str, object] = {name: CONFIGURED[name] for name in STEP.sections}
REPORT = {
    "rows": 12,
    "pairs": 10,
    "splits": {"train": 9, "validation": 1},
    "noise": {"fraction": 0.5, "noisy_pairs": 4},
}


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))


def test_the_folder_holds_the_model_and_a_card_that_tells_how_it_came_to_be(tmp_path: Path) -> None:
    bundle = replace(make("clip", tmp_path), provenance={"source": "somewhere", "sha256": "ab"})
    save_clip(tmp_path / "checkpoint", bundle, {"negative_prompt.safetensors": {"prompt": torch.zeros(2, 16)}})
    (tmp_path / "checkpoint" / ".snakemake_timestamp").touch()
    results = write_tree(tmp_path / "results", {"ncu": 0.4}, histories=False)
    write_json(tmp_path / "report.json", REPORT)
    scores = {
        name: results / f"eval_{name}" / "ncu" / "seed0" / "scores.json" for name in ("zeroshot", "probe", "retrieval")
    }
    found = json.loads(scores["zeroshot"].read_text())
    write_json(scores["zeroshot"], found | {"cars": {"hole": "the link is dead"}})
    out = tmp_path / "model"
    paths = {"checkpoint": tmp_path / "checkpoint", "report": tmp_path / "report.json", "model": out, **scores}
    assert command(STEP, settings=SETTINGS, **paths) == 0
    assert {path.name for path in out.iterdir()} == {
        "README.md", "open_clip_config.json", "open_clip_model.safetensors", "negative_prompt.safetensors",
        "provenance.json",
    }  # fmt: skip
    images, tokens = torch.randn(2, 3, 32, 32), bundle.tokenizer(["a dog"])
    exported = open_clip.create_model(f"local-dir:{out}").eval()
    with torch.inference_mode():
        assert torch.equal(exported.encode_image(images), bundle.model.encode_image(images))
        assert torch.equal(exported.encode_text(tokens), bundle.model.encode_text(tokens))
    card = (out / "README.md").read_text()
    top1 = json.loads(scores["zeroshot"].read_text())["openclipart"]["top1"]
    assert f"| Zero-shot classification | openclipart | test | 96 | top-1 * | {100 * top1:.1f} | 12.5 |" in card
    for wanted in (
        METHODS["ncu"].title,
        "- pairs kept: 10",
        "4 pairs have another",
        "source `somewhere`",
        '"gamma": 0.7',
        "| Linear probe | openclipart | test | 96 | accuracy * |",
        "| Retrieval | openclipart | test | 120 | image to text R@5 |",
        "Not evaluated on cars: the link is dead",
    ):
        assert wanted in card
    (run,) = runs_of("export_model")
    assert set(run.files) == {"README.md"}


def test_a_card_has_the_settings_of_its_own_method(tmp_path: Path) -> None:
    save_clip(tmp_path / "checkpoint", make("clip", tmp_path))
    told = {}
    for method in ("ncu", "npc"):
        paths = {"checkpoint": tmp_path / "checkpoint", "model": tmp_path / method}
        assert command(STEP, settings=SETTINGS, method=method, **paths) == 0
        told[method] = json.loads((tmp_path / method / "README.md").read_text().split("```json")[1].split("```")[0])
    assert told["npc"].keys() - told["ncu"].keys() == {"build_memory_bank", "train_npc"}
    assert told["ncu"].keys() - told["npc"].keys() == {"learn_prompt", "unlearn", "train_baseline"}


def test_scores_and_report_may_be_left_out(tmp_path: Path) -> None:
    save_clip(tmp_path / "checkpoint", make("clip", tmp_path))
    assert command(STEP, settings=SETTINGS, checkpoint=tmp_path / "checkpoint", model=tmp_path / "model") == 0
    assert "without scores" in (tmp_path / "model" / "README.md").read_text()


def test_a_damaged_checkpoint_is_not_handed_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_clip(tmp_path / "checkpoint", make("clip", tmp_path))
    weights = tmp_path / "checkpoint" / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert command(STEP, settings=SETTINGS, checkpoint=tmp_path / "checkpoint", model=tmp_path / "model") == 1
    assert "is cut short, damaged or no file of weights" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_scores_that_are_no_json_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_clip(tmp_path / "checkpoint", make("clip", tmp_path))
    (tmp_path / "scores.json").write_text("{torn")
    paths = {"checkpoint": tmp_path / "checkpoint", "probe": tmp_path / "scores.json", "model": tmp_path / "model"}
    assert command(STEP, settings=SETTINGS, **paths) == 1
    assert "scores.json is not what it should be" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
