"""Reading plain data (of YAML or JSON) as a `Section`, with everything that is wrong with it at once.

A problem is a sentence: dotted key, value, what is allowed. msgspec checks single values, and would stop at the first.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta, ValidationError
from msgspec.structs import FieldInfo, fields

from pipeline_steps.core.schema.values import Section

Kind = TypeVar("Kind")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}
_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def checked(
    value: object, kind: type[Kind], place: str = "", example: str | None = None
) -> tuple[Kind | None, list[str]]:
    """`value` as a `kind` with no problems, or None with all of them, keys after `place`.

    `example` is where a key that is missing can be copied from.
    """
    problems: list[str] = []
    found = _Reader(problems, example).read(value, kind, place)
    return (None if problems else found), problems


def checked_members(value: object, kind: type[Section], example: str | None = None) -> tuple[dict[str, Any], list[str]]:
    """The members of a section that have no problem, by name, and all problems of the others."""
    problems: list[str] = []
    return _Reader(problems, example).members(value, kind, ""), problems


@cache
def _fields(kind: type[Section]) -> tuple[FieldInfo, ...]:
    return fields(kind)


class _Reader:
    """Reads a value of any type that sections have; what is wrong is added to `problems`."""

    def __init__(self, problems: list[str], example: str | None) -> None:
        self._problems, self._example = problems, example

    def read(self, value: Any, kind: Any, place: str) -> Any:
        base, metas = _unwrapped(kind)
        if isinstance(base, type) and issubclass(base, Section):
            return self._section(value, base, place)
        origin = get_origin(base)
        if origin in (Union, UnionType):
            return self._union(value, base, place)
        if origin is tuple and isinstance(value, list | tuple):
            return self._list(value, base, metas, place)
        if origin in (dict, Mapping) and isinstance(value, Mapping):
            return self._mapping(value, base, metas, place)
        return self._leaf(value, kind, place)

    def members(self, value: Any, kind: type[Section], place: str) -> dict[str, Any]:
        known = {field.name: field for field in _fields(kind)}
        if not isinstance(value, Mapping):
            self._problem(place, f" = {value!r}: allowed is a mapping of {', '.join(known)}")
            return {}
        for key in value:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean `{close[0]}`? " if close else ""
                told = f" = {value[key]!r}: unknown key; {hint}allowed here: {', '.join(sorted(known))}"
                self._problem(_below(place, key), told)
        found = {}
        for name, field in known.items():
            before = len(self._problems)
            member = self._field(value, field, _below(place, name))
            if len(self._problems) == before:
                found[name] = member
        return found

    def _section(self, value: Any, kind: type[Section], place: str) -> Section | None:
        before = len(self._problems)
        found = self.members(value, kind, place)
        if len(self._problems) > before:
            return None
        try:
            return kind(**found)
        except ValueError as error:
            self._problem(place, f": {error}")
            return None

    def _field(self, value: Mapping[str, Any], field: FieldInfo, place: str) -> Any:
        if field.name in value:
            return self.read(value[field.name], field.type, place)
        if field.default is not NODEFAULT:
            return field.default
        if field.default_factory is not NODEFAULT:
            return field.default_factory()
        self._problem(place, f": this key is missing; copy it from {self._example}" if self._example else ": missing")
        return None

    def _union(self, value: Any, kind: Any, place: str) -> Any:
        members = [member for member in get_args(kind) if member is not NoneType]
        if value is None and len(members) < len(get_args(kind)):
            return None
        if len(members) == 1:
            return self.read(value, members[0], place)
        tagged = {tag: member for member in members if (tag := _tag(member))}
        if tagged and isinstance(value, Mapping) and value.get("kind") not in tagged:
            self._problem(_below(place, "kind"), f" = {value.get('kind')!r}: allowed is one of {', '.join(tagged)}")
            return None
        if tagged and isinstance(value, Mapping):
            return self.read(value, tagged[value["kind"]], place)
        fitting = [member for member in members if _is_list(member) == isinstance(value, list | tuple)]
        return self.read(value, fitting[0], place) if len(fitting) == 1 else self._leaf(value, kind, place)

    def _list(self, value: Any, kind: Any, metas: list[Meta], place: str) -> Any:
        members = get_args(kind)
        if members[-1] is Ellipsis:
            members = (members[0],) * len(value)
        if len(members) != len(value):
            self._problem(place, f" = {value!r}: allowed is a list of {len(members)}")
            return None
        found = tuple(
            self.read(member, wanted, _below(place, number))
            for number, (member, wanted) in enumerate(zip(value, members, strict=True))
        )
        self._container(value, metas, place)
        if any((meta.extra or {}).get("distinct") for meta in metas) and len(set(found)) < len(found):
            self._problem(place, f" = {value!r}: each may be named once")
        return found

    def _mapping(self, value: Mapping[Any, Any], kind: Any, metas: list[Meta], place: str) -> Any:
        key_kind, value_kind = get_args(kind)
        self._container(value, metas, place)
        return {
            self._leaf(key, key_kind, _below(place, key)): self.read(member, value_kind, _below(place, key))
            for key, member in value.items()
        }

    def _container(self, value: Any, metas: list[Meta], place: str) -> None:
        for meta in metas:
            if meta.min_length and len(value) < meta.min_length:
                self._problem(place, f" = {value!r}: allowed is a list of at least {meta.min_length}")

    def _leaf(self, value: Any, kind: Any, place: str) -> Any:
        if _unwrapped(kind)[0] is float and isinstance(value, str) and _NUMBER.fullmatch(value):
            value = float(value)
        try:
            found = msgspec.convert(value, kind)
        except (ValidationError, UnicodeEncodeError):
            found = math.nan
        if isinstance(found, str) and not found.isprintable() and _HALF_CHARACTER.search(found):
            found = math.nan  # JSON can spell half of a character, which no file name and no text can hold
        if isinstance(found, float) and not math.isfinite(found):
            self._problem(place, f" = {value!r}: allowed is {allowed(kind)}")
        return found

    def _problem(self, place: str, told: str) -> None:
        self._problems.append(f"{place or 'the configuration'}{told}")


def allowed(kind: Any) -> str:
    """The values of a type, in words."""
    base, metas = _unwrapped(kind)
    if described := next((meta.description for meta in metas if meta.description), None):
        return described
    if get_origin(base) is Literal:
        return " or ".join(repr(member) for member in get_args(base))
    if get_origin(base) in (Union, UnionType):
        return " or ".join(allowed(member) for member in get_args(base))
    if get_origin(base) in (dict, Mapping):
        return "a mapping"
    if get_origin(base) is tuple:
        return "a list"
    said = [f"{word} {bound}" for name, word in _BOUNDS.items() if (bound := _bound(metas, name)) is not None]
    said += [f"of the form {meta.pattern}" for meta in metas if meta.pattern]
    said += ["that is not empty" for meta in metas if meta.min_length]
    return " ".join([_WORDS[base], " and ".join(said)]).strip()


def _bound(metas: list[Meta], name: str) -> float | None:
    return next((bound for meta in reversed(metas) if (bound := getattr(meta, name)) is not None), None)


def _unwrapped(kind: Any) -> tuple[Any, list[Meta]]:
    """A type without its annotations, and these."""
    if get_origin(kind) is Annotated:
        base, *metas = get_args(kind)
        return base, metas
    return kind, []


def _tag(kind: Any) -> str | None:
    """What the field `kind` of a member of a union says."""
    if not (isinstance(kind, type) and issubclass(kind, Section)):
        return None
    return next((get_args(field.type)[0] for field in _fields(kind) if field.name == "kind"), None)


def _is_list(kind: Any) -> bool:
    return get_origin(_unwrapped(kind)[0]) is tuple


def _below(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)
