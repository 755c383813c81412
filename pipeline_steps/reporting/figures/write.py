"""All figures of an experiment, each with its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from pipeline_steps.reporting.figures.curves import forget_figure, loss_figure
from pipeline_steps.reporting.figures.partial_data import partial_figure, partial_frame
from pipeline_steps.reporting.figures.per_set import difference_figure, difference_frame
from pipeline_steps.reporting.figures.recall import recall_figure, recall_frame
from pipeline_steps.reporting.figures.similarity import histogram_frame, similarity_figure
from pipeline_steps.reporting.figures.style import save
from pipeline_steps.reporting.history import forget_frame, loss_frame
from pipeline_steps.reporting.measured import Measured, Place


def write_figures(
    folder: Path,
    measured: Measured,
    *,
    zero_shot: Sequence[Place],
    pairs: Mapping[str, int],
    similarities: Mapping[str, pd.DataFrame],
    history: pd.DataFrame,
) -> None:
    """Write every figure that has something to show into an existing folder.

    `recall_by_method`; `fig4_partial_data` where NCU ran on at least two numbers of `pairs`; `fig5_similarity`;
    `zero_shot_difference` of the sets and measures of `zero_shot`, where NCU was run and there are at least three;
    `loss_curves` and `forget_set` where stages were trained and noise was injected.
    """
    confidence = measured.bootstrap.confidence
    recalls, partial = recall_frame(measured), partial_frame(measured, pairs)
    differences, shares = difference_frame(measured, zero_shot), histogram_frame(similarities)
    losses, forget = loss_frame(history), forget_frame(history)
    if len(recalls):
        save(folder, "recall_by_method", recall_figure(recalls, confidence), recalls)
    if len(partial):
        save(folder, "fig4_partial_data", partial_figure(partial, confidence), partial)
    if len(differences):
        save(folder, "zero_shot_difference", difference_figure(differences, confidence), differences)
    save(folder, "fig5_similarity", similarity_figure(shares), shares)
    if len(losses):
        save(folder, "loss_curves", loss_figure(losses), losses)
    if len(forget):
        save(folder, "forget_set", forget_figure(forget), forget)
