"""What is wrong with a configuration, as sentences: dotted key, value, what is allowed, remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from pipeline_steps.core.schema import DatasetRow


def problems_of(value: Any, kind: type[Any], prefix: str) -> list[str]:
    """What is wrong with `value` as a `kind`, a sentence each, its keys after `prefix`."""
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        details = error.errors(include_url=False)
        places = [detail["loc"] for detail in details]
        # A list whose members are wrong is also called too short; the members' own errors say it.
        told = [
            detail
            for detail in details
            if detail["type"] != "too_short"
            or not any(place[: len(detail["loc"])] == detail["loc"] and place != detail["loc"] for place in places)
        ]
        return [_sentence(detail, kind, prefix) for detail in told]
    return []


def _sentence(detail: Any, kind: type[Any], prefix: str) -> str:
    key = ".".join([prefix, *map(str, detail["loc"])] if prefix else map(str, detail["loc"])) or "the configuration"
    if detail["type"] == "missing":
        example = "a row of config/datasets.yaml" if kind is DatasetRow else "config/config.yaml"
        return f"{key}: this key is missing; copy it from {example}"
    if detail["type"] == "unexpected_keyword_argument":
        allowed = sorted(_keys_beside(kind, detail["loc"]))
        close = difflib.get_close_matches(str(detail["loc"][-1]), allowed, n=1)
        hint = f"did you mean `{close[0]}`? " if close else ""
        return f"{key} = {detail['input']!r}: unknown key; {hint}allowed here: {', '.join(allowed)}"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if detail["type"] == "value_error":
        return f"{key}: {message}"
    message = message.replace("String should match pattern", "text of the form")
    return f"{key} = {detail['input']!r}: allowed is {message}"


def _keys_beside(kind: Any, location: tuple[int | str, ...]) -> list[str]:
    for part in location[:-1]:
        if is_dataclass(kind):
            kind = get_type_hints(kind, include_extras=True)[str(part)]
        elif isinstance(part, str):
            kind = next(iter(member for member in _members(kind) if _kind_of(member) == part), kind)
    return [field.name for field in fields(kind)] if is_dataclass(kind) else []


def _members(kind: Any) -> Iterator[Any]:
    """The dataclasses in a type such as tuple[A | B, ...]."""
    if is_dataclass(kind):
        yield kind
    for argument in get_args(kind):
        yield from _members(argument)


def _kind_of(kind: Any) -> str | None:
    """What the field `kind` of a member of a discriminated union says."""
    return next(iter(get_args(get_type_hints(kind).get("kind"))), None)
