"""Values that another work has published for the experiments of a study, as data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from msgspec import field

from pipeline_steps.core.checking import checked
from pipeline_steps.core.config import read_yaml
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema.values import Number, Section

COLUMNS = ("place", "dataset", "method", "measure", "published")


class PublishedSet(Section, frozen=True):
    """Percent, by the place on the study's axis and then the method, in the order of `measures`.

    `not_trusted` maps a measure whose values are wrong at their source to the reason: they are shown and not compared.
    """

    values: Mapping[float, Mapping[str, tuple[Number, ...]]]
    not_trusted: Mapping[str, str] = field(default_factory=dict)


class Published(Section, frozen=True):
    """A file of resources/published/. `source` says where its values come from."""

    source: str
    measures: tuple[str, ...]
    datasets: Mapping[str, PublishedSet]


def read_published(path: Path) -> Published:
    """Read and check a file. Raises PipelineError with everything that is wrong with it."""
    found, problems = checked(read_yaml([path]), Published)
    if found is None:
        raise PipelineError(f"{path} is no file of published values: {'; '.join(problems)}")
    short = [
        f"{dataset} {place} {method}"
        for dataset, of_set in found.datasets.items()
        for place, methods in of_set.values.items()
        for method, values in methods.items()
        if len(values) != len(found.measures)
    ]
    if short:
        raise PipelineError(f"{path}: {', '.join(short)} has not the {len(found.measures)} values of `measures`")
    return found


def published_frame(published: Published | None) -> pd.DataFrame:
    """COLUMNS and `trusted`, a row per value, fractions."""
    rows = [
        (place, dataset, method, measure, value / 100, measure not in of_set.not_trusted)
        for dataset, of_set in (published.datasets if published else {}).items()
        for place, methods in of_set.values.items()
        for method, values in methods.items()
        for measure, value in zip(published.measures if published else (), values, strict=True)
    ]
    return pd.DataFrame(rows, columns=[*COLUMNS, "trusted"])
