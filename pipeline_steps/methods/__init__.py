"""The methods. `core/methods.py` is their table; here a baseline's name becomes its objective."""

from __future__ import annotations

import importlib
from typing import cast

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.methods import METHODS
from pipeline_steps.core.schema import TrainBaselineConfig
from pipeline_steps.methods.base import Objective


def baseline_objective(method: str, settings: TrainBaselineConfig) -> Objective:
    """The objective of `pipeline_steps/methods/<method>.py`. Raises PipelineError for a name not in the table."""
    baselines = [name for name, row in METHODS.items() if row.stage == "train_baseline"]
    if method not in baselines:
        raise PipelineError(f"--method {method} is not a baseline; allowed: {', '.join(baselines)}")
    module = importlib.import_module(f"pipeline_steps.methods.{method}")
    return cast(Objective, module.build(settings))
