"""MLflow: one run per step, under one parent run per method and seed. Only this package imports mlflow."""

from pipeline_steps.core.tracking.run import Run, SilentRun, fingerprint_of, tracked_run
from pipeline_steps.core.tracking.store import RunIdentity

__all__ = ["Run", "RunIdentity", "SilentRun", "fingerprint_of", "tracked_run"]
