from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.reporting.history import forget_frame, loss_frame, read_histories
from tests.results_tree import SIGNALS, write_history

METHODS = tuple(SIGNALS)


def test_curves_stand_in_the_order_of_the_pipeline(results: Path) -> None:
    losses = loss_frame(read_histories(results, METHODS, (0,)))
    assert [panel for panel, _ in losses.groupby(["stage", "method"], sort=False)] == [
        ("train_reference", "reference"),
        ("learn_prompt", "ncu"),
        ("unlearn", "ncu"),
        ("train_baseline", "continued"),
        ("train_baseline", "gradient_ascent"),
    ]
    of_prompt = losses[losses["stage"] == "learn_prompt"]
    assert set(of_prompt["name"]) == {"loss", "loss/separation", "loss/relation", "loss/matching"}
    assert not losses["name"].isin(["lr", "pairs_per_second"]).any()


def test_smoothing_is_a_centred_mean_within_a_curve(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_history(tmp_path / "unlearn" / "ncu" / f"seed{seed}" / "history.parquet", steps=60 + seed)
    losses = loss_frame(read_histories(tmp_path, ("ncu",), (0, 1)))
    first = losses[losses["seed"] == 0].reset_index(drop=True)
    assert first["step"].tolist() == list(range(60))
    assert first["smoothed"][30] == pytest.approx(first["value"][29:32].mean())
    assert first["smoothed"][0] == pytest.approx(first["value"][:2].mean())
    assert losses[losses["seed"] == 1]["smoothed"].iloc[-1] == pytest.approx(losses["value"].iloc[-2:].mean())


def test_the_forget_set_is_kept_only_where_noise_was_injected(results: Path, tmp_path: Path) -> None:
    forget = forget_frame(read_histories(results, METHODS, (0,)))
    assert set(forget["name"]) == {"precision", "recall", "base_rate"}
    assert set(forget["method"]) == {"ncu", "gradient_ascent"}
    frame = pd.DataFrame({"step": [0, 0], "epoch": 0, "name": ["forget_set/base_rate", "forget_set/precision"]})
    path = tmp_path / "unlearn" / "ncu" / "seed0" / "history.parquet"
    path.parent.mkdir(parents=True)
    frame.assign(value=0.0).to_parquet(path)
    assert forget_frame(read_histories(tmp_path, ("ncu",), (0,))).empty


def test_no_history_at_all_gives_empty_frames(tmp_path: Path) -> None:
    history = read_histories(tmp_path, METHODS, (0,))
    assert loss_frame(history).empty
    assert forget_frame(history).empty


def test_a_torn_history_is_named(tmp_path: Path) -> None:
    path = tmp_path / "unlearn" / "ncu" / "seed0" / "history.parquet"
    write_history(path, steps=5)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(PipelineError, match=r"unlearn/ncu/seed0/history\.parquet is torn"):
        read_histories(tmp_path, ("ncu",), (0,))
