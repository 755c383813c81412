"""What each configuration of config/paper/ costs, by counting: floating-point operations of every training.

`python -m tests.benchmarks.cost` prints a Markdown table. How it is counted stands in pipeline_steps/core/cost.py.
Evaluation is not in it. Nothing is measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline_steps.core.config import load_config, read_yaml
from pipeline_steps.core.cost import counted, training_operations
from pipeline_steps.core.methods import METHODS
from pipeline_steps.core.schema import Config

DEFAULT = Path("config/config.yaml")
PAPER = Path("config/paper")
# Rows of the published lists: an upper bound, of links that no longer all work.
LISTED_PAIRS = {"cc3m": 3_318_333, "cc12m": 12_423_374, "yfcc15m": 15_000_000}
SUSTAINED = 1e14


def method_operations(config: Config, method: str, pairs: int) -> float:
    """Operations of a method's own trainings, its two phases or the baselines' copies of them."""
    texts = 2 if METHODS[method].stage == "unlearn" else 1
    phases = (config.learn_prompt.training, config.unlearn.training)
    return sum(training_operations(phase, counted(config.model.architecture), pairs, texts) for phase in phases)


def row(path: Path) -> str:
    """One line of the table."""
    raw = read_yaml([DEFAULT, path])
    config = load_config(raw)
    pairs = next(count for name, count in LISTED_PAIRS.items() if path.stem.startswith(name))
    reference = 0.0
    if config.import_reference.weights is None:
        reference = training_operations(config.train_reference.training, counted(config.model.architecture), pairs, 1)
    each = {method: method_operations(load_config(raw, method), method, pairs) for method in config.methods}
    total = reference + sum(each.values())
    cells = [path.stem, f"{pairs / 1e6:.1f}", _exa(reference) if reference else "imported"]
    cells += [_exa(each["ncu"]), str(len(each)), _exa(total), f"{total / SUSTAINED / 3600:,.0f}"]
    return "| " + " | ".join(cells) + " |"


def _exa(operations: float) -> str:
    return f"{operations / 1e18:.1f}"


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    print("| config/paper/ | million pairs | reference | NCU | methods | all trainings | GPU hours at 100 TFLOP/s |")
    print("|---|---|---|---|---|---|---|")
    for path in sorted(PAPER.glob("*.yaml")):
        print(row(path))
    print("\nReference, NCU and all trainings in EFLOP (10^18 floating-point operations).")


if __name__ == "__main__":
    main()
