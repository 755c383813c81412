"""Print what the jobs of a dry run would cost: by stage, jobs, GPU-hours and disk. Snakemake ends `-n` with it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import write_json


def main(argv: Sequence[str] | None = None) -> int:
    """Read the jobs as JSON from standard input and print the bill. Returns 0, or 1 after an error.

    Where PIPELINE_REQUESTS in the environment names a file, the JSON goes there instead (for check_cluster).
    """
    argparse.ArgumentParser(prog="python -m pipeline_steps.show_bill", description=__doc__).parse_args(argv)
    told = json.load(sys.stdin)
    if requests := os.environ.get("PIPELINE_REQUESTS"):
        write_json(Path(requests), told)
        return 0
    from pipeline_steps.core.config import load_config
    from pipeline_steps.data.list_size import known_pairs
    from pipeline_steps.reporting.bill import bill
    from pipeline_steps.reporting.job_cost import item_of

    try:
        pairs = known_pairs(config := load_config(told["config"]))
        items = [item_of(told["config"], job, pairs) for job in told["jobs"]]
        print(bill(items, pairs, config.show_bill.tflops_per_gpu))
    except PipelineError as error:
        print(f"show_bill: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
