"""What every step shares: its command line, seed, log, output lock and MLflow run."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pipeline_steps.core.config import ConfigError, load_config, load_section, read_yaml, resolve, section_type
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import only_writer, sha256_of
from pipeline_steps.core.methods import METHODS
from pipeline_steps.core.process import Paused, Terminated, rank, sigterm_raises, world_size
from pipeline_steps.core.slurm import requeue
from pipeline_steps.core.tracking import Run, RunIdentity, SilentRun, fingerprint_of, tracked_run

Section = TypeVar("Section")
SHARED = {
    "download_images": "data", "build_manifest": "data", "prepare_dataset": "data", "extract_features": "evaluation",
    "check_overlap": "evaluation", "make_tables": "report", "compare_experiments": "report",
    "inject_label_noise": "data", "make_label_tables": "report",
}  # fmt: skip
_MOST_HASHED_MEMBERS = 100


@dataclass(frozen=True)
class StepContext:
    """What a step's `run` gets: its inputs and outputs by name, its settings, its MLflow run and its log.

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
        """Run the step from a command line. Returns 0, 1 after an error that the user can mend, 143 after SIGTERM."""
        arguments = self._parser().parse_args(argv)
        log = _logger(self.name, arguments.log_file)
        try:
            self._run(arguments, log)
        except PipelineError as error:
            log.error("%s", error)
            return 1
        except (Terminated, KeyboardInterrupt) as stop:
            log.error("stopped (%s); its MLflow run is KILLED", stop or "Ctrl-C")
            if isinstance(stop, Paused) and rank() == 0:
                requeue()
            return 143
        except Exception:
            log.exception("unexpected error")
            if world_size() > 1:
                log.error("another process may have failed first; its log is %s.rank<number>", arguments.log_file)
            raise
        return 0

    def _parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(
            prog=f"python -m pipeline_steps.{self.name}",
            description=f"{self.summary} Config sections: {', '.join(self.sections)}.",
        )
        for kind, texts in (("reads", self.inputs), ("writes", self.outputs)):
            for name, text in texts.items():
                parser.add_argument(
                    _option(name), type=Path, required=not text.startswith("optional"), help=f"{kind}: {text}",
                    nargs="+" if name in self.several else None,
                )  # fmt: skip
        for name, text in self.options.items():
            parser.add_argument(_option(name), required=not text.startswith("optional"), help=text)
        settings = parser.add_mutually_exclusive_group(required=True)
        settings.add_argument("--config", type=Path, nargs="+", help="YAML files, later ones over earlier ones")
        settings.add_argument("--settings", help="the step's sections as JSON (what Snakemake passes)")
        shared = SHARED.get(self.name)
        parser.add_argument(
            "--method", default=shared, required=shared is None, choices=[shared] if shared else list(METHODS),
            help="whose run this is: MLflow keeps a method's steps under one parent",
        )  # fmt: skip
        parser.add_argument("--seed", type=int, default=0, help="seed of every random choice")
        parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves the libraries' choice")
        parser.add_argument("--log-file", type=Path, help="also write the log to this file")
        return parser

    def _run(self, arguments: argparse.Namespace, log: logging.Logger) -> None:
        raw = _settings(arguments)
        for dotted in self.sections:
            load_section(raw, dotted, section_type(dotted))
        files = _paths(arguments, (*self.inputs, *self.outputs))
        missing = [
            f"{_option(name)} {path}" for name in self.inputs for path in files.get(name, ()) if not path.exists()
        ]
        if missing:
            raise PipelineError(
                f"these inputs do not exist: {', '.join(missing)}. Run the stage that makes them first."
            )
        identity = RunIdentity(str(raw.get("experiment", "standalone")), self.name, arguments.method, arguments.seed)
        options = {name: word for name in self.options if (word := getattr(arguments, name)) is not None}
        settings = _only(raw, self.sections) | options
        with ExitStack() as stack:
            outputs = files[next(iter(self.outputs))]
            if rank() == 0:
                for output in outputs:
                    stack.enter_context(only_writer(output))
            read = {name: files[name] for name in self.inputs if name in files}
            hashes = {key: sha256_of(path, self.reads.get(name, ["**/*"])) for name, key, path in _keyed(read)}
            if rank() == 0:
                run = stack.enter_context(tracked_run(identity, settings, hashes, outputs[0]))
            else:
                stack.enter_context(sigterm_raises())
                run = SilentRun(fingerprint_of(settings, hashes))
            first = {name: paths[0] for name, paths in files.items()}
            several = {name: paths for name, paths in files.items() if name in self.several}
            context = StepContext(
                first, raw, arguments.method, arguments.seed, arguments.threads, run, log, several, options
            )
            self.run(context)
            if rank() > 0:
                return
            written = {name: files[name] for name in self.outputs if name in files}
            run.set_tags({f"output.{key}": str(path) for _, key, path in _keyed(written)})
            run.set_tags(
                {f"output.{key}.sha256": sha256_of(path) for _, key, path in _keyed(written) if _hashable(path)}
            )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _paths(arguments: argparse.Namespace, names: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """What was given for each name, as a tuple; names of optional inputs that were left out are not there."""
    given = {name: getattr(arguments, name) for name in names}
    return {
        name: tuple(value) if isinstance(value, list) else (value,)
        for name, value in given.items()
        if value is not None
    }


def _keyed(files: Mapping[str, tuple[Path, ...]]) -> Iterator[tuple[str, str, Path]]:
    """Name, key and path of every file: the key is the name, with a number where the name has more than one path."""
    for name, paths in files.items():
        for number, path in enumerate(paths):
            yield name, f"{name}.{number}" if len(paths) > 1 else name, path


def _hashable(path: Path) -> bool:
    """A file, or a folder of few members such as a checkpoint; not a folder of pictures."""
    return path.is_file() or (
        path.is_dir() and len(list(islice(path.rglob("*"), _MOST_HASHED_MEMBERS + 1))) <= _MOST_HASHED_MEMBERS
    )


def _settings(arguments: argparse.Namespace) -> Mapping[str, Any]:
    if arguments.config:
        method = arguments.method if arguments.method in METHODS else None
        raw = read_yaml(arguments.config)
        load_config(raw, method)
        return resolve(raw, method)
    try:
        loaded = json.loads(arguments.settings)
    except json.JSONDecodeError as error:
        raise ConfigError([f"--settings is not JSON ({error}); use --config FILE for YAML"]) from error
    if not isinstance(loaded, dict):
        raise ConfigError(["--settings must be a JSON object of sections"])
    return loaded


def _only(raw: Mapping[str, Any], sections: Sequence[str]) -> dict[str, Any]:
    chosen = {}
    for dotted in sections:
        value: Any = raw
        for part in dotted.split("."):
            value = value[part]
        chosen[dotted] = value
    return chosen


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
        handler.setFormatter(logging.Formatter(f"%(asctime)s {name}: %(message)s", "%H:%M:%S"))
        log.addHandler(handler)
    return log
