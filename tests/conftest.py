"""What all tests have in common: no step of theirs tells MLflow of itself, and none writes into the repository."""

from __future__ import annotations

import os
import tempfile

os.environ["PIPELINE_RUNS_FOLLOWED"] = "1"
os.environ["PIPELINE_RESULTS_DIR"] = tempfile.mkdtemp(prefix="results")
