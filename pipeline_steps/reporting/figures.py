"""All figures of an experiment, each with its data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from pipeline_steps.reporting.curves import forget_figure, loss_figure
from pipeline_steps.reporting.grid import Grid
from pipeline_steps.reporting.history import forget_frame, loss_frame
from pipeline_steps.reporting.plots import histogram_frame, recall_figure, recall_frame, save, similarity_figure
from pipeline_steps.reporting.statistics import Bootstrap


def write_figures(
    folder: Path, grid: Grid, bootstrap: Bootstrap, *, similarities: Mapping[str, pd.DataFrame], history: pd.DataFrame
) -> None:
    """Write `recall_by_method`, `similarity_histograms`, `loss_curves` and `forget_set` into an existing folder.

    The last two are left out where they would be empty: without training stages, and without injected noise.
    """
    recalls = recall_frame(grid, bootstrap)
    save(folder, "recall_by_method", recall_figure(recalls, bootstrap.confidence), recalls)
    shares = histogram_frame(similarities)
    save(folder, "similarity_histograms", similarity_figure(shares), shares)
    losses, forget = loss_frame(history), forget_frame(history)
    if len(losses):
        save(folder, "loss_curves", loss_figure(losses), losses)
    if len(forget):
        save(folder, "forget_set", forget_figure(forget), forget)
