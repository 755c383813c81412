"""Jobs that record their runs, each a process: `many_jobs.py FOLDER COUNT [wait]`.

Job n is method ncu or continued, seed n // 2 % 3, stage of its own, in the experiment that is named like the folder.
With `wait` a job stops half-way until the file FOLDER/go is there, and says so by FOLDER/half<n>.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from pathlib import Path

from pipeline_steps.core.files import only_writer
from pipeline_steps.core.record import RunIdentity, recorded_run

POINTS = 100


def job(folder: Path, number: int, barrier: object, waits: bool) -> None:
    identity = RunIdentity(folder.name, f"stage{number}", ("ncu", "continued")[number % 2], number // 2 % 3)
    output = folder / f"out{number}"
    barrier.wait(60)  # type: ignore[attr-defined]
    with only_writer(output), recorded_run(identity, {"number": number}, {"pairs": "0" * 64}, output) as run:
        for step in range(POINTS):
            run.log_metrics({"loss": number + step / 1000, "odd": float("nan") if step % 2 else float("inf")}, step)
            if waits and step == POINTS // 2:
                run.log_text("early", "notes/early.txt")
                (folder / f"half{number}").touch()
                while not (folder / "go").exists():
                    time.sleep(0.05)
        run.log_text(f"job {number}", "job.txt")
        run.log_scores({f"score/{number}": float(number)})
        run.set_tags({"output.out": str(output)})


def main() -> int:
    folder, count, waits = Path(sys.argv[1]), int(sys.argv[2]), len(sys.argv) > 3
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(count)
    jobs = [context.Process(target=job, args=(folder, number, barrier, waits)) for number in range(count)]
    for process in jobs:
        process.start()
    for process in jobs:
        process.join()
    return sum(process.exitcode != 0 for process in jobs)


if __name__ == "__main__":
    sys.exit(main())
