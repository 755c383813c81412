"""`snakemake`, whose executor for Slurm looks at the queue every second.

Itself it waits ten seconds longer after every look at which no job had ended, and has no setting for that.
"""

from __future__ import annotations

import asyncio
import sys

from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor


async def _sleep(_executor: Executor) -> None:
    await asyncio.sleep(1)


if __name__ == "__main__":
    Executor.sleep = _sleep
    main(sys.argv[1:])
