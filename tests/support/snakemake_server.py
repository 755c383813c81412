"""Snakemake with its imports done: every line on standard input is a run, in a fork of this process.

A line is JSON: argv, the folder, the environment, the file for its output. The answer is a line with the exit status.
Most of what a dry run takes is Snakemake's own start, which this does once.
"""

from __future__ import annotations

import json
import os
import sys

import snakemake.cli
import snakemake.dag
import snakemake.workflow  # noqa: F401


def run(told: dict) -> None:
    """In the fork: become that run, and end with its status."""
    output = os.open(told["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(told["folder"])
    os.environ.clear()
    os.environ.update(told["environment"])
    sys.argv = ["snakemake", *told["arguments"]]
    status = 1
    try:
        snakemake.cli.main(sys.argv[1:])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.exit(status)


for line in sys.stdin:
    child = os.fork()
    if not child:
        run(json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
