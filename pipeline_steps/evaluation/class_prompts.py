"""Prompts that describe classes: a template filled with a class's name and with phrases about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline_steps.core.config import read_yaml
from pipeline_steps.core.errors import PipelineError


def class_prompts(template: str, classes: Sequence[str], features: Path | None) -> list[list[str]]:
    """For each class the template with {c} its name and {feature} each of its phrases; one prompt without phrases.

    `features` is a YAML file that maps a class's name to its phrases. Raises PipelineError for classes that it lacks,
    and for phrases that the template has no place for.
    """
    if features is None:
        filled = [" ".join(template.replace("{c}", name).replace("{feature}", "").split()) for name in classes]
        return [[text.replace(" .", ".").replace(" ,", ",")] for text in filled]
    if "{feature}" not in template:
        raise PipelineError(f"select_clean.prompt = {template!r} has no {{feature}} for the phrases of {features}")
    phrases = read_yaml([features])
    if lacking := [name for name in classes if not _is_texts(phrases.get(name))]:
        raise PipelineError(f"{features} has no list of phrases for {', '.join(lacking)}; give each class at least one")
    return [
        [template.replace("{c}", name).replace("{feature}", phrase) for phrase in phrases[name]] for name in classes
    ]


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)
