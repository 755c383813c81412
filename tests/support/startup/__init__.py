"""What processes load at their start: read from what `sitecustomize.py` beside this leaves."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Start:
    """A process of a step: its CPU seconds, those of its imports, its memory and the packages that it loaded."""

    step: str
    cpu_seconds: float
    import_seconds: float
    peak_mib: float
    packages: frozenset[str]


def startup_environment(log: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which every Python process leaves word of its start in the folder `log`."""
    log.mkdir(parents=True, exist_ok=True)
    paths = [str(FOLDER), *filter(None, [environment.get("PYTHONPATH")])]
    return {**environment, "STARTUP_LOG": str(log), "PYTHONPATH": os.pathsep.join(paths)}


def first_starts_environment(log: Path, environment: Mapping[str, str], warm_python: str) -> dict[str, str]:
    """The same for the first process of each step and method that `python` starts; those after it are `warm_python`.

    Of evaluations, which do the same for every method, the first alone.
    """
    once = log / "once"
    once.mkdir(parents=True)
    folder, cold, warm = map(shlex.quote, (str(once), sys.executable, warm_python))
    method = 'case "$2" in *.train_*) method=${*##*--method };; esac'
    first = f'mkdir {folder}/"$2.${{method%% *}}" 2>/dev/null'
    (once / "python").write_text(f'#!/bin/sh\n{method}\n{first} && exec {cold} "$@"\nexec {warm} "$@"\n')
    (once / "python").chmod(0o755)
    return startup_environment(log, {**environment, "PATH": f"{once}{os.pathsep}{environment['PATH']}"})


def starts(log: Path) -> list[Start]:
    """What the processes of steps left."""
    found = []
    for path in sorted(log.glob("*.json")):
        told = json.loads(path.read_text(encoding="utf-8"))
        step = re.search(r"-m pipeline_steps\.(\w+)(?!\S)", " ".join(told["command"]))
        if step:
            numbers = (told["cpu_seconds"], told["import_seconds"], told["peak_mib"])
            found.append(Start(step[1], *numbers, frozenset(told["packages"])))
    return found
