"""Class names and prompt templates: clip-benchmark's package data, the source's own, or the row's list."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Literal

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.evaluation.datasets.source import is_unicode

_FILES = {"classnames": "en_classnames.json", "templates": "en_zeroshot_classification_templates.json"}


def chosen_names(
    kind: Literal["classnames", "templates"], wanted: str | Sequence[str], own: Sequence[str]
) -> list[str]:
    """What a row's `classnames` or `templates` asks for; `own` is what the source brings.

    Raises PipelineError for a key that clip-benchmark's data does not have, for `source` where it brings none, and for
    an own name that is empty or no Unicode, or an own template without {c}.
    """
    if not isinstance(wanted, str):
        return list(wanted)
    if wanted == "source":
        if not own:
            raise PipelineError(f"`{kind}: source`, and the source brings none; give a key of clip-benchmark or a list")
        for text in own:
            if not text.strip() or not is_unicode(text) or (kind == "templates" and "{c}" not in text):
                wish = "{c} for the class name" if kind == "templates" else "a name in Unicode"
                raise PipelineError(f"`{kind}: source`, and one that the source brings is {text!r}; wanted is {wish}")
        return list(own)
    data = package_data(kind)
    if wanted not in data:
        raise PipelineError(f"`{kind}: {wanted}` is no key of clip-benchmark's; allowed: source, {', '.join(data)}")
    return data[wanted]


@cache
def package_data(kind: Literal["classnames", "templates"]) -> dict[str, list[str]]:
    """Set -> names, as clip-benchmark's package has them in English. Treat as read-only."""
    text = (files("clip_benchmark.datasets") / _FILES[kind]).read_text(encoding="utf-8")
    loaded: dict[str, list[str]] = json.loads(text)
    return loaded
