"""Print the end of a run: scores, what they mean, where everything is, how long it took."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline_steps.core.errors import PipelineError

DEFAULT_CONFIG = Path("config/config.yaml")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the overview of an experiment. Returns 0, or 1 after an error that the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m pipeline_steps.show_summary", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("experiment", type=Path, nargs="?", help="reads: results/<experiment>")
    which.add_argument(
        "--config", type=Path, nargs="+", help=f"YAML files over {DEFAULT_CONFIG}, as Snakemake takes them"
    )
    arguments = parser.parse_args(argv)
    from pipeline_steps.reporting.overview import overview

    try:
        experiment, store = (arguments.experiment, None) if arguments.experiment else _configured(arguments.config)
        store = os.environ.get("MLFLOW_TRACKING_URI") or store or str(experiment.parent / "mlflow.db")
        print(overview(experiment, store))
    except PipelineError as error:
        print(f"show_summary: {error}", file=sys.stderr)
        return 1
    return 0


def _configured(files: Sequence[Path]) -> tuple[Path, str | None]:
    from pipeline_steps.core.config import read_yaml

    raw = read_yaml([*([DEFAULT_CONFIG] if DEFAULT_CONFIG.is_file() else []), *files])
    missing = [key for key in ("results_dir", "experiment") if key not in raw]
    if missing:
        raise PipelineError(
            f"{', '.join(map(str, files))}: no {' and no '.join(missing)}; give the results folder itself, such as "
            "`python -m pipeline_steps.show_summary results/demo`."
        )
    return Path(raw["results_dir"], raw["experiment"]), raw.get("tracking", {}).get("uri")


if __name__ == "__main__":
    sys.exit(main())
