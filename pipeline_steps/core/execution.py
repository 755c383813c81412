"""A step's execution: its settings and inputs are checked, its outputs are locked, and the run is recorded."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from pipeline_steps.core.config import ConfigError, load_config, load_section, read_yaml, resolve, section_type
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import only_writer, require_replaceable, sha256_of
from pipeline_steps.core.follower import Follower
from pipeline_steps.core.methods import METHODS
from pipeline_steps.core.process import rank, stop_raises
from pipeline_steps.core.record import Run, RunIdentity, fingerprint_of, recorded_run, results_dir
from pipeline_steps.core.step import Step, StepContext, option

_MOST_HASHED_MEMBERS = 100


def execute(step: Step, arguments: argparse.Namespace, log: logging.Logger) -> None:
    """Check settings and inputs, lock the outputs, run the step, and record what it read and wrote.

    Raises PipelineError with everything that is wrong before any work.
    """
    raw = _settings(arguments)
    for dotted in step.sections:
        load_section(raw, dotted, section_type(dotted))
    files = _paths(arguments, (*step.inputs, *step.outputs))
    missing = [f"{option(name)} {path}" for name in step.inputs for path in files.get(name, ()) if not path.exists()]
    if missing:
        raise PipelineError(f"these inputs do not exist: {', '.join(missing)}. Run the stage that makes them first.")
    for name in step.outputs:
        for path in files.get(name, ()):
            require_replaceable(path)
    experiment = load_section(raw, "experiment", section_type("experiment")) if "experiment" in raw else "standalone"
    identity = RunIdentity(experiment, step.name, arguments.method, arguments.seed)
    options = {name: word for name in step.options if (word := getattr(arguments, name)) is not None}
    settings = _only(raw, step.sections) | options
    with ExitStack() as stack:
        outputs = files[next(iter(step.outputs))]
        if rank() == 0:
            for output in outputs:
                stack.enter_context(only_writer(output))
        read = {name: files[name] for name in step.inputs if name in files}
        hashes = {key: sha256_of(path, step.reads.get(name, ["**/*"])) for name, key, path in _keyed(read)}
        if rank() == 0:
            stack.callback(Follower(results_dir()).finish)
            run = stack.enter_context(recorded_run(identity, settings, hashes, outputs[0]))
        else:
            stack.enter_context(stop_raises())
            run = Run(None, fingerprint_of(settings, hashes))
        first = {name: paths[0] for name, paths in files.items()}
        several = {name: paths for name, paths in files.items() if name in step.several}
        context = StepContext(
            first, raw, arguments.method, arguments.seed, arguments.threads, run, log, several, options
        )
        step.run(context)
        if rank() > 0:
            return
        written = {name: files[name] for name in step.outputs if name in files}
        run.set_tags({f"output.{key}": str(path) for _, key, path in _keyed(written)})
        run.set_tags({f"output.{key}.sha256": sha256_of(path) for _, key, path in _keyed(written) if _hashable(path)})


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
        loaded = msgspec.json.decode(arguments.settings)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
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
