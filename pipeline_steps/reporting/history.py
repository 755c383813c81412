"""What training stages wrote per step, and the frames that the curves are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.methods import METHODS, REFERENCE
from pipeline_steps.reporting.names import stage_order

COLUMNS = ("step", "epoch", "name", "value")
FORGET_SET = ("precision", "recall", "auroc", "base_rate")
_CURVE = ["stage", "method", "seed", "name"]
_WINDOW_SHARE = 0.05


def read_histories(results: Path, methods: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    """All `<stage>/<method>/seed<k>/history.parquet` of these methods, the reference and these seeds, long form.

    Columns: stage, method, seed, step, epoch, name, value; stages in pipeline order. Empty when no stage of the
    experiment trained anything. Raises PipelineError for a torn file.
    """
    frames = []
    for stage in stage_order():
        for method in (REFERENCE, *methods):
            for seed in seeds:
                path = results / stage / method / f"seed{seed}" / "history.parquet"
                if path.is_file():
                    frames.append(_read(path).assign(stage=stage, method=method, seed=seed))
    if not frames:
        return pd.DataFrame(columns=["stage", "method", "seed", *COLUMNS])
    return pd.concat(frames, ignore_index=True)[["stage", "method", "seed", *COLUMNS]]


def loss_frame(history: pd.DataFrame) -> pd.DataFrame:
    """The loss and its terms, with `smoothed`: the centred running mean over a twentieth of each curve's steps."""
    names = history["name"].astype(str)
    return _smoothed(history[(names == "loss") | names.str.startswith("loss/")])


def forget_frame(history: pd.DataFrame) -> pd.DataFrame:
    """Precision, recall, AUROC and base rate of the forget set, fractions, smoothed; empty without injected noise.

    Curves stand in the order of the pipeline and of the table of methods."""
    wanted = history[history["name"].isin([f"forget_set/{name}" for name in FORGET_SET])]
    noise = wanted.loc[wanted["name"] == "forget_set/base_rate", "value"]
    if not (noise > 0).any():
        wanted = wanted.iloc[:0]
    return _smoothed(wanted.assign(name=wanted["name"].astype(str).str.removeprefix("forget_set/")))


def _smoothed(frame: pd.DataFrame) -> pd.DataFrame:
    ordered = frame.sort_values([*_CURVE, "step"], kind="stable", ignore_index=True, key=_place)
    curves = ordered.groupby(_CURVE, sort=False)["value"]
    return ordered.assign(smoothed=curves.transform(_running_mean) if len(ordered) else [])


def _place(column: pd.Series) -> pd.Series:
    order = {"stage": stage_order(), "method": list(METHODS)}.get(str(column.name))
    return column.map({name: place for place, name in enumerate(order)}) if order else column


def _running_mean(values: pd.Series) -> pd.Series:
    window = max(1, round(_WINDOW_SHARE * len(values)))
    return values.rolling(window, center=True, min_periods=1).mean()


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path, columns=list(COLUMNS))
    except (ValueError, OSError) as error:
        raise PipelineError(
            f"{path} is torn or has not the columns {', '.join(COLUMNS)} ({error}). Run that training stage again."
        ) from error
