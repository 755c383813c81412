"""Ctrl-C to a real Snakemake while a training runs: in a terminal, where all its processes get it, and to it alone."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.workflow.snakemake_runs import user_environment, workspace

SETTINGS = """
experiment: interrupted
model: {architecture: config/models/smoke_rn.json}
build_manifest: {source_csv: pairs.csv, validation_fraction: 0.1}
train_reference: {training: {epochs: 2000, batch_size: 8, workers: 1}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = workspace(tmp_path_factory.mktemp("interrupt") / "project")
    (folder / "mine.yaml").write_text(SETTINGS)
    with (folder / "pairs.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["image_path", "text_content"])
        for number in range(40):
            Image.new("RGB", (32, 32), (5 * number, 0, 99)).save(folder / f"{number}.png")
            rows.writerow([f"{number}.png", f"a picture of the colour {number}"])
    return folder


@pytest.mark.parametrize("everywhere", [False, True])
def test_ctrl_c_keeps_the_state_of_a_running_training_and_the_next_run_goes_on(folder: Path, everywhere: bool) -> None:
    log = folder / "results/interrupted/logs/train_reference/reference/seed0.log"
    log.unlink(missing_ok=True)
    with subprocess.Popen(
        ["snakemake", "--cores", "2", "--configfile", "mine.yaml", "--", "train_reference"],
        cwd=folder, env=user_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's background has none
    ) as driver:  # fmt: skip
        deadline = time.monotonic() + 200
        while not (log.is_file() and "tensors" in log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(3)  # into its steps
        if everywhere:
            os.killpg(driver.pid, signal.SIGINT)
        else:
            driver.send_signal(signal.SIGINT)
        told, _ = driver.communicate(timeout=60)
    assert driver.returncode == 1
    assert "Ctrl-C: running trainings keep their state and end. The next run goes on from there." in told
    by = "SIGINT" if everywhere else "SIGTERM"
    assert f"stopped ({by}" in log.read_text()
    assert "; reference train_reference is kept after step" in log.read_text()
    assert (log.parents[3] / "train_reference/reference/seed0/checkpoint.resume.train_reference.pt").is_file()
    assert ("goes on after step" in log.read_text()) == everywhere  # which is tried second
