"""A study: one experiment for each entry of `compare_experiments.over`, which differ in what their data are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline_steps.core.config import ConfigError, load_config, merged, resolve
from pipeline_steps.core.schema.study import VARIED_SECTIONS

Raw = Mapping[str, Any]


def experiments_of(raw: Raw) -> dict[str, dict[str, Any]]:
    """The configurations that `raw` stands for, by the name of their experiment; without a study, `raw` alone.

    An entry NAME of `compare_experiments.over` is the configuration with the entry's sections laid over it, and its
    experiment is `<experiment>_NAME`. Raises ConfigError with the errors of every entry, each under its name.
    """
    over = load_config(raw).compare_experiments.over
    if over is None:
        return {str(raw["experiment"]): dict(raw)}
    found, problems = {}, []
    for name, sections in over.items():
        place = f"compare_experiments.over.{name}"
        if others := sorted(sections.keys() - VARIED_SECTIONS):
            allowed = ", ".join(sorted(VARIED_SECTIONS))
            problems.append(f"{place}: {', '.join(others)} is the same in all of a study; allowed: {allowed}")
            continue
        experiment = f"{raw['experiment']}_{name}"
        found[experiment] = merged(raw, sections, {"experiment": experiment})
        try:
            load_config(found[experiment])
        except ConfigError as error:
            problems += [f"{place}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    places_on_axis(resolve(raw))
    return found


def places_on_axis(raw: Raw) -> dict[str, float]:
    """The number at the key `compare_experiments.axis` in each entry of a study, by the entry's name.

    `raw` needs `compare_experiments` and the sections that experiments may differ in. Raises ConfigError, with every
    entry, where there is no number.
    """
    study = raw["compare_experiments"]
    found: dict[str, float] = {}
    problems = []
    for name, sections in study["over"].items():
        value: Any = merged(raw, sections)
        for part in study["axis"].split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            problems.append(f"compare_experiments.axis = {study['axis']!r}: in {name} it is {value!r}, and no number")
        else:
            found[name] = float(value)
    if problems:
        raise ConfigError(problems)
    return found
