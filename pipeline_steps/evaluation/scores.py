"""What every evaluation hands on: scores per data set, and one row per picture or query for paired statistics.

A measure M stands beside `chance_M`, its expectation for random answers; the other entries say on what it was made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pipeline_steps.core.files import whole_file, write_json

CHANCE = "chance_"
Score = float | int | str | bool
Scores = dict[str, dict[str, Score]]


class Evaluation(NamedTuple):
    """`scores` maps data set to its scores; `outcomes` has a row per picture or query, with a column `dataset`."""

    scores: Scores
    outcomes: pd.DataFrame

    def write(self, scores_path: Path, outcomes_path: Path) -> None:
        """Write the outcomes as parquet and then the scores as JSON, each whole."""
        with whole_file(outcomes_path) as partial:
            self.outcomes.to_parquet(partial, index=False)
        write_json(scores_path, self.scores)


def measures(scores: Mapping[str, Score]) -> dict[str, float]:
    """The measures of one data set: the entries that have a chance level beside them."""
    return {name: float(value) for name, value in scores.items() if f"{CHANCE}{name}" in scores}


def mlflow_names(family: str, scores: Scores) -> dict[str, float]:
    """All measures as `family/dataset/measure`, in the characters that MLflow allows."""
    return {
        f"{family}/{dataset}/{re.sub('@', '_at_', name)}": value
        for dataset, of_dataset in scores.items()
        for name, value in measures(of_dataset).items()
    }
