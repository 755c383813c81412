"""What every evaluation hands on: scores per data set, and one row per picture or query for paired statistics.

A measure M stands beside `chance_M`, its expectation for random answers; the other entries say on what it was made.
A set that could not be had has the one entry `hole`, the line that says why.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import whole_file, write_json

if TYPE_CHECKING:
    import pandas as pd

CHANCE, HOLE = "chance_", "hole"
EVALUATOR_VERSION = "2"
Score = float | int | str | bool
Scores = dict[str, dict[str, Score]]


class Evaluation(NamedTuple):
    """`scores` maps data set to its scores; `outcomes` has a row per picture or query, with a column `dataset`."""

    scores: Scores
    outcomes: pd.DataFrame

    def write(self, scores_path: Path, outcomes_path: Path) -> None:
        """Write the outcomes as parquet and then the scores as JSON, each whole.

        Raises PipelineError for a score that is not finite.
        """
        strange = [f"{name} {key}" for name, found in self.scores.items() for key in found if not is_finite(found[key])]
        if strange:
            raise PipelineError(
                f"these scores are not finite: {', '.join(strange)}. Run extract_features again; where it is so again, "
                "the checkpoint embeds pictures or texts as NaN, and needs to be trained again at a lower rate."
            )
        with whole_file(outcomes_path) as partial:
            self.outcomes.to_parquet(partial, index=False)
        write_json(scores_path, self.scores)


def is_finite(value: object) -> bool:
    """Whether a score is no NaN and no infinity; a text is none."""
    return not isinstance(value, float) or math.isfinite(value)


def evaluation_of(
    scores: Scores, outcomes: Sequence[pd.DataFrame], columns: Sequence[str], holes: Mapping[str, str]
) -> Evaluation:
    """The scores of sets with the holes of those that could not be had, and the outcomes one after another."""
    import pandas as pd

    frames = [frame[list(columns)] for frame in outcomes] or [pd.DataFrame(columns=list(columns))]
    lines: Scores = {name: {HOLE: line} for name, line in holes.items()}
    return Evaluation(scores | lines, pd.concat(frames, ignore_index=True))


def without_holes(scores: Scores) -> Scores:
    """The sets that have scores."""
    return {name: of_set for name, of_set in scores.items() if HOLE not in of_set}


def holes_of(scores: Scores) -> dict[str, str]:
    """The sets that could not be had, each with the line that says why."""
    return {name: str(of_set[HOLE]) for name, of_set in scores.items() if HOLE in of_set}


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
