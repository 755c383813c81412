from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pipeline_steps.reporting.forget_set import forget_set_frame, write_forget_set
from pipeline_steps.reporting.history import read_histories
from pipeline_steps.reporting.measured import Measured
from pipeline_steps.reporting.summary import Summary, summarise
from tests.results_tree import SIGNALS, write_histories

METHODS = tuple(SIGNALS)


def test_a_row_is_the_mean_of_its_steps_and_then_of_its_seeds(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_histories(tmp_path, ("ncu",), seed, steps=30 + 10 * seed)
    history = read_histories(tmp_path, ("ncu",), (0, 1))
    frame = forget_set_frame(history)
    assert frame[["stage", "method", "n_seeds"]].values.tolist() == [["learn_prompt", "ncu", 2], ["unlearn", "ncu", 2]]
    of_seeds = [
        pd.read_parquet(tmp_path / f"unlearn/ncu/seed{seed}/history.parquet")
        .query("name == 'forget_set/precision'")["value"]
        .mean()
        for seed in (0, 1)
    ]
    (row,) = frame[frame["stage"].eq("unlearn")].to_dict("records")
    assert row["precision"] == pytest.approx(sum(of_seeds) / 2)
    assert row["precision/std"] == pytest.approx(abs(of_seeds[0] - of_seeds[1]) / 2**0.5)
    assert pd.isna(row["auroc"])


def test_the_table_has_the_scores_of_the_checkpoint_that_a_stage_wrote(
    results: Path, measured: Measured, summary: Summary, tmp_path: Path
) -> None:
    write_forget_set(tmp_path, read_histories(results, METHODS, (0,)), summary)
    lines = (tmp_path / "forget_set.md").read_text().splitlines()
    (prompt,) = (line for line in lines if line.startswith("| NCU, learn_prompt"))
    (unlearn,) = (line for line in lines if line.startswith("| NCU, unlearn"))
    final = next(cell for cell in summarise(measured).row("ncu") if cell.column.headline.key == "mean_recall").score
    assert unlearn.rstrip(" |").endswith(f"{100 * final.mean:.1f}")
    assert f"{100 * final.mean:.1f}" not in prompt
    assert pd.read_csv(tmp_path / "forget_set.csv")["method"].tolist() == ["ncu", "ncu", "gradient_ascent"]


def test_without_noise_there_is_no_table(summary: Summary, tmp_path: Path) -> None:
    write_forget_set(tmp_path, read_histories(tmp_path, METHODS, (0,)), summary)
    assert not list(tmp_path.iterdir())
