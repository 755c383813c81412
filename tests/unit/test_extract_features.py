"""The step by its command line: several checkpoints, kills at any time, two jobs on one cache."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline_steps.evaluation.features.index import Features
from pipeline_steps.extract_features import STEP
from pipeline_steps.models.clip import save_clip
from tests.unit.evaluation.features import made
from tests.unit.models.architectures import make
from tests.unit.paths import CONFIG, REPOSITORY
from tests.unit.step_runs import runs_of
from tests.unit.training.conftest import pairs  # noqa: F401 - a manifest with a held-out split

pytestmark = pytest.mark.usefixtures("warm")

SMALL, LARGE = 12, 1500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints, and a small and a large set."""
    folder = tmp_path_factory.mktemp("made")
    made.checkpoints(folder, 2)
    made.classification_set(folder, "small", test=SMALL, train=SMALL)
    made.classification_set(folder, "large", test=LARGE, train=SMALL, first=50)
    return folder


def _options(folder: Path, results: Path, name: str, sets: tuple[str, ...], taps: tuple[str, ...] = ()) -> list[str]:
    section = yaml.safe_load(CONFIG.read_text())["extract_features"] | {"batch_size": 16}
    section |= {"taps": list(taps)} if taps else {}
    settings = {"experiment": "test", "results_dir": str(results), "extract_features": section}
    outputs = [str(results / name / str(number) / "features.json") for number in range(2)]
    return [
        "--checkpoint", *(str(folder / f"checkpoint{number}") for number in range(2)),
        "--prepared", *(str(folder / one) for one in sets), "--features", *outputs, "--settings", json.dumps(settings),
    ]  # fmt: skip


def _start(options: list[str], results: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline_steps.extract_features", *options, "--threads", "1"]
    environment = {**os.environ, "PIPELINE_RESULTS_DIR": str(results), "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    results.mkdir(exist_ok=True)
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True)


def _metrics(results: Path) -> list[dict[str, float]]:
    """The counts of the finished runs, the earliest first."""
    found = sorted(runs_of("extract_features", results=results), key=lambda run: run.ended)
    return [run.metrics for run in found if run.status == "FINISHED"]


def _kept(results: Path) -> list[Path]:
    return sorted((results / "features").rglob("*.safetensors"))


def test_a_killed_job_loses_the_split_it_was_at_and_two_at_a_time_share_what_they_make(
    folder: Path, tmp_path: Path
) -> None:
    results, sets = tmp_path / "results", ("small", "large")
    killed = _start(_options(folder, results, "one", sets), results)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and killed.poll() is None:
        if len(_kept(results)) >= 2 * 2 + 2 + 2 and len(list(results.glob("features/*/.*.partial"))) == 2:
            break
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    _, told = killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL, told
    assert not (results / "one").exists() or not list((results / "one").rglob("features.json"))
    assert len(list(results.glob("features/*/.*.partial"))) == 2
    before = {path: path.stat().st_mtime_ns for path in _kept(results)}

    both = [_start(_options(folder, results, name, sets), results) for name in ("one", "two")]
    for job in both:
        _, told = job.communicate(timeout=300)
        assert job.returncode == 0, told
    assert not list(results.glob("features/*/.*.partial"))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for counts in _metrics(results):
        assert counts["pictures_from_cache"] >= 2 * 2 * SMALL
        assert counts["pictures_read"] <= LARGE + SMALL
        assert counts["texts_from_cache"] >= 2 * 4

    whole = _start(_options(folder, tmp_path / "whole", "one", sets), tmp_path / "whole")
    _, told = whole.communicate(timeout=300)
    assert whole.returncode == 0, told
    assert [path.name for path in _kept(tmp_path / "whole")] == [path.name for path in _kept(results)]
    for number in "01":
        expected = tmp_path / "whole" / "one" / number / "features.json"
        for name in ("one", "two"):
            assert (results / name / number / "features.json").read_bytes() == expected.read_bytes()
        matrix = Features(results / "one" / number / "features.json").matrix("large/test/image")
        assert np.array_equal(matrix, Features(expected).matrix("large/test/image"))


def test_a_new_set_is_computed_alone_and_counted_in_the_record(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs: Path  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))
    made.retrieval_set(tmp_path, "coco", pictures=6)
    assert STEP.main(_options(folder, tmp_path, "first", ("small",))) == 0
    options = _options(folder, tmp_path, "second", ("small",))
    options[options.index("--features") : options.index("--features")] = [str(tmp_path / "coco"), "--pairs", str(pairs)]
    assert STEP.main(options) == 0
    first, second = _metrics(tmp_path)
    assert (first["pictures_read"], first["pictures_encoded"], first["pictures_from_cache"]) == (24, 48, 0)
    held_out = len(Features(tmp_path / "second/0/features.json").raw("validation/image"))
    assert (second["pictures_read"], second["pictures_from_cache"]) == (6 + held_out, 48)
    features = Features(tmp_path / "second/1/features.json")
    assert features.datasets_with("test/caption") == ("coco",)
    assert len(features.matrix("validation/text")) == held_out > 1


def test_a_tower_without_the_tap_is_refused_before_any_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))
    shutil.copytree(folder / "checkpoint0", tmp_path / "checkpoint0")
    shutil.copytree(folder / "small", tmp_path / "small")
    save_clip(tmp_path / "checkpoint1", make("resnet", tmp_path))
    taps = ("projected", "penultimate")
    assert STEP.main(_options(tmp_path, tmp_path / "results", "one", ("small",), taps)) == 1
    told = capsys.readouterr().err
    assert "checkpoint1" in told
    assert "ModifiedResNet" in told
    assert not _kept(tmp_path / "results")


def test_outputs_must_be_as_many_as_checkpoints(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))
    options = _options(folder, tmp_path, "one", ("small",))
    del options[options.index("--features") + 2]
    assert STEP.main(options) == 1
    assert "--checkpoint names 2 and --features 1" in capsys.readouterr().err
