"""What a training step takes alone and beside busy processes, by how OpenMP's threads wait for each other.

`python -m tests.benchmarks.shared_machine` prints a table: seconds per step, alone and with `--busy` processes beside
it. Every setting is measured in processes of its own, in turn with the others, `--rounds` times; medians count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack

from tabulate import tabulate

SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    **{f"GOMP_SPINCOUNT={count}": {"GOMP_SPINCOUNT": str(count)} for count in (1_000, 10_000, 100_000)},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
STEP = """
import sys, time, torch
torch.manual_seed(0)
seconds = float(sys.argv[1])
model = torch.nn.Sequential(
    *(layer for width in ((3, 32), (32, 64), (64, 64)) for layer in (
        torch.nn.Conv2d(*width, 3, padding=1), torch.nn.BatchNorm2d(width[1]), torch.nn.ReLU(), torch.nn.MaxPool2d(2))),
    torch.nn.Flatten(), torch.nn.Linear(64 * 64, 128))
optimizer, images = torch.optim.AdamW(model.parameters()), torch.randn(64, 3, 64, 64)
def step():
    optimizer.zero_grad()
    model(images).square().mean().backward()
    optimizer.step()
for _ in range(3):
    step()
taken, end = [], time.perf_counter() + seconds
while time.perf_counter() < end:
    started = time.perf_counter()
    step()
    taken.append(time.perf_counter() - started)
print(sorted(taken)[len(taken) // 2])
"""
BUSY = "while True: pass"


def seconds_per_step(setting: dict[str, str], seconds: float) -> float:
    """The median of a process of its own."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-c", STEP, str(seconds)]
    return float(subprocess.run(command, env=environment | setting, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--busy", type=int, default=4, help="processes beside it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement")
    given = parser.parse_args()
    alone: dict[str, list[float]] = {name: [] for name in SETTINGS}
    beside: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(given.rounds):
        for name, setting in SETTINGS.items():
            alone[name].append(seconds_per_step(setting, given.seconds))
        with ExitStack() as stack:
            for _ in range(given.busy):
                process = stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY]))
                stack.callback(process.kill)
            for name, setting in SETTINGS.items():
                beside[name].append(seconds_per_step(setting, given.seconds))
    best = statistics.median(alone["default"])
    rows = []
    for name in SETTINGS:
        own, shared = statistics.median(alone[name]), statistics.median(beside[name])
        rows.append([name, f"{own:.3f}", f"{own / best:.2f}", f"{shared:.3f}", f"{shared / best:.1f}"])
    cpus, threads = os.cpu_count() or 1, min(2, os.cpu_count() or 1)
    print(
        f"{cpus} CPUs, {given.busy} busy processes; a fair share would be {(given.busy + threads) / cpus:.1f} times.\n"
    )
    header = ["setting", "alone, s", "to default", f"beside {given.busy}, s", "to default alone"]
    print(tabulate(rows, header, tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main()
