"""Check, before anything is submitted, whether a cluster can run the pipeline; each failure comes with its remedy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_steps.core.errors import PipelineError

if TYPE_CHECKING:
    from pipeline_steps.cluster.checks import Finding

DEFAULT_CONFIG = "config/config.yaml"
_SECONDS = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Print every check, then the remedies of those that failed. Returns 0, or 1 when one failed."""
    parser = argparse.ArgumentParser(prog="python -m pipeline_steps.check_cluster", description=__doc__)
    parser.add_argument("--profile", default="slurm", help="as snakemake takes it (default: slurm)")
    parser.add_argument("--configfile", nargs="+", default=[], help="as snakemake takes them, over the default")
    parser.add_argument("--wait", type=float, default=180, help="seconds for each job to start; 0 submits none")
    arguments = parser.parse_args(argv)
    from pipeline_steps.cluster.checks import Finding, all_static
    from pipeline_steps.cluster.jobs import all_jobs
    from pipeline_steps.cluster.requests import requests_of
    from pipeline_steps.core.config import load_config, read_yaml

    try:
        config = load_config(read_yaml([Path(name) for name in (DEFAULT_CONFIG, *arguments.configfile)]))
        asked = requests_of(arguments.profile, arguments.configfile)
    except PipelineError as error:
        print(f"check_cluster: {error}", file=sys.stderr)
        return 1
    if not asked.requests:
        print("check_cluster: every output is made already; there is no job to check", file=sys.stderr)
        return 0
    results = Path(config.results_dir)
    found = [*all_static(asked), _store(config.tracking.uri or f"sqlite:///{results}/mlflow.db")]
    if arguments.wait and not any(finding.failed for finding in found):
        found += all_jobs(asked.requests, results, arguments.wait)
    elif arguments.wait:
        found.append(Finding("jobs", "none was submitted, because of the failures above"))
    return _told(found)


def _store(uri: str) -> Finding:
    """MLflow from this machine, which alone writes to it; jobs leave records on the shared folder."""
    from urllib.error import HTTPError
    from urllib.request import urlopen

    from pipeline_steps.cluster.checks import Finding

    if not uri.startswith(("http://", "https://")):
        return Finding("MLflow", uri)
    try:
        with urlopen(f"{uri.rstrip('/')}/health", timeout=_SECONDS):  # noqa: S310 - http or https, see above
            return Finding("MLflow", f"{uri} answers")
    except HTTPError as error:  # one that wants a password answers, too
        return Finding("MLflow", f"{uri} answers {error.code}")
    except OSError as error:
        remedy = (
            "start it (docs/mlflow_on_a_cluster.md), or set tracking.uri to one that runs; until then runs are kept"
        )
        return Finding("MLflow", f"{uri} does not answer: {error}", remedy, warning=True)


def _told(found: Sequence[Finding]) -> int:
    for finding in found:
        mark = "FAILED" if finding.failed else "note" if finding.remedy else "ok"
        print(f"{mark:<7}{finding.check}: {finding.found}")
    failed = [finding for finding in found if finding.failed]
    for title, chosen in (("What to do", failed), ("Worth knowing", [one for one in found if one.warning])):
        if chosen:
            print(f"\n{title}")
            print("\n".join(f"  {finding.check}: {finding.remedy}" for finding in chosen))
    print(f"\n{len(failed)} of {len(found)} checks failed" if failed else "\nThis cluster can run it.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
