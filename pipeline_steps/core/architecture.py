"""Model configurations of open_clip's form, checked before any library sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pipeline_steps.core.checking import checked
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import read_json
from pipeline_steps.core.schema.architecture import Architecture
from pipeline_steps.core.schema.values import Section

Kind = TypeVar("Kind", bound=Section)


def read_architecture(path: Path) -> tuple[Architecture | None, list[str]]:
    """What the JSON file of a model says, or None with everything in it that is not allowed, a sentence each."""
    if not path.is_file():
        return None, [f"{path}: there is no such file; allowed: a name of open_clip, or the JSON file of a model"]
    try:
        found, problems = checked(read_json(path, dict[str, Any], "Write it as config/models/ does."), Architecture)
    except PipelineError as error:
        return None, [str(error)]
    return found, [f"{path}: {problem}" for problem in problems]


def as_allowed(value: object, kind: type[Kind], place: str) -> Kind:
    """A model's configuration that came from `place`. Raises PipelineError with all in it that is not allowed."""
    found, problems = checked(value, kind)
    if found is None:
        raise PipelineError(refusal([f"{place}: {problem}" for problem in problems]))
    return found


def refusal(problems: list[str]) -> str:
    """The words for a configuration with problems."""
    told = "".join(f"\n  - {problem}" for problem in problems)
    return (
        f"a model's configuration has {len(problems)} error(s):{told}\n"
        "It has the form of open_clip's configurations. What is not allowed in it is not handed on to a library: some "
        "options of a library run code that comes with a model."
    )
