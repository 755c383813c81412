"""What every step shares: its contract and its command line.

A step's module imports nothing that its help and its errors do not need: `run` imports what the work needs.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline_steps.core.errors import PipelineError, told, without_control
from pipeline_steps.core.methods import METHODS
from pipeline_steps.core.process import Paused, Terminated, failing_cleanly, rank, world_size

if TYPE_CHECKING:
    from pipeline_steps.core.record import Run

Section = TypeVar("Section")
SHARED = {
    "download_images": "data", "build_manifest": "data", "prepare_dataset": "data", "extract_features": "evaluation",
    "check_overlap": "evaluation", "make_tables": "report", "compare_experiments": "report",
    "inject_label_noise": "data", "make_label_tables": "report",
}  # fmt: skip


@dataclass(frozen=True)
class StepContext:
    """What a step's `run` gets: its inputs and outputs by name, its settings, its record and its log.

    `paths` has the first of those that are `several`; `options` the plain words of the command line.
    """

    paths: Mapping[str, Path]
    raw_settings: Mapping[str, Any]
    method: str
    seed: int
    threads: int
    run: Run
    log: logging.Logger
    several: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)

    def section(self, dotted: str, kind: type[Section]) -> Section:
        """The settings of `dotted`, checked. Raises ConfigError with every error of that section."""
        from pipeline_steps.core.config import load_section

        return load_section(self.raw_settings, dotted, kind)


@dataclass(frozen=True)
class Step:
    """A standalone script: `name` is module, rule, results folder, MLflow run and config section at once.

    `inputs` and `outputs` map an option's name to its help text; an input whose help starts with "optional" may be
    left out. The outputs of the first name are locked against a second writer. `several` names the inputs and outputs
    that take more than one path; `options` maps a plain word, such as a data set's name, to its help text, where
    "optional" means the same. `reads` holds glob patterns of the members for which a folder input is read, where those
    are not all: only they are hashed.
    """

    name: str
    summary: str
    sections: tuple[str, ...]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    run: Callable[[StepContext], None]
    reads: Mapping[str, Sequence[str]] = field(default_factory=dict)
    several: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run the step from a command line. Returns 0, 1 after an error that a user can mend, 143 when told to stop."""
        arguments = self._parser().parse_args(argv)
        try:
            log = _logger(self.name, arguments.log_file)
        except OSError as error:
            print(f"{self.name}: --log-file: {told(error)}", file=sys.stderr)
            return 1
        # Threads that spin while they wait keep the others off the cores of a busy machine (docs/benchmarks.md).
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch reads it when it is imported, later
        from pipeline_steps.core.execution import execute  # help does not wait for it

        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            with failing_cleanly():
                execute(self, arguments, log)
        except PipelineError as error:
            log.error("%s", error)
            return 1
        except (Terminated, KeyboardInterrupt) as stop:
            log.error("stopped (%s); its run is recorded as KILLED", str(stop) or "Ctrl-C")
            if isinstance(stop, Paused) and stop.by == signal.SIGTERM.name and rank() == 0:
                from pipeline_steps.core.slurm import requeue

                requeue()
            return 143
        except Exception as error:
            words = told(error)
            if words is not None:
                log.error("%s", words)
                return 1
            log.exception("unexpected error")
            if world_size() > 1:
                log.error("another process may have failed first; its log is %s.rank<number>", arguments.log_file)
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return 0

    def _parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(
            prog=f"python -m pipeline_steps.{self.name}",
            description=f"{self.summary} Config sections: {', '.join(self.sections)}.",
        )
        for kind, texts in (("reads", self.inputs), ("writes", self.outputs)):
            for name, text in texts.items():
                parser.add_argument(
                    option(name), type=Path, required=not text.startswith("optional"), help=f"{kind}: {text}",
                    nargs="+" if name in self.several else None,
                )  # fmt: skip
        for name, text in self.options.items():
            parser.add_argument(option(name), required=not text.startswith("optional"), help=text)
        settings = parser.add_mutually_exclusive_group(required=True)
        settings.add_argument("--config", type=Path, nargs="+", help="YAML files, later ones over earlier ones")
        settings.add_argument("--settings", help="the step's sections as JSON (what Snakemake passes)")
        shared = SHARED.get(self.name)
        parser.add_argument(
            "--method", default=shared, required=shared is None, choices=[shared] if shared else list(METHODS),
            help="whose run this is: MLflow keeps a method's steps under one parent",
        )  # fmt: skip
        parser.add_argument("--seed", type=_whole(0, 2**32 - 1), default=0, help="seed of every random choice")
        parser.add_argument(
            "--threads", type=_whole(0, 2**16), default=0, help="CPU threads; 0 leaves the libraries' choice"
        )
        parser.add_argument("--log-file", type=Path, help="also write the log to this file")
        return parser


def option(name: str) -> str:
    """The option of the command line for a name."""
    return f"--{name.replace('_', '-')}"


class _Plain(logging.Formatter):
    """Messages may quote what a server or a file says, which moves nobody's cursor."""

    def format(self, record: logging.LogRecord) -> str:
        return without_control(super().format(record))


def _whole(lowest: int, highest: int) -> Callable[[str], int]:
    """What argparse reads a whole number with."""

    def number(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or not lowest <= int(text[:20]) <= highest:
            raise argparse.ArgumentTypeError(f"{text!r}: allowed is a whole number from {lowest} to {highest}")
        return int(text)

    return number


def _logger(name: str, path: Path | None) -> logging.Logger:
    log = logging.getLogger("pipeline_steps")
    log.setLevel(logging.INFO if rank() == 0 else logging.WARNING)
    log.propagate = False
    log.handlers.clear()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        own = path if rank() == 0 else path.with_name(f"{path.name}.rank{rank()}")
        handlers.append(logging.FileHandler(own, mode="w", encoding="utf-8", delay=rank() > 0))
    for handler in handlers:
        handler.setFormatter(_Plain(f"%(asctime)s {name}: %(message)s", "%H:%M:%S"))
        log.addHandler(handler)
    return log
