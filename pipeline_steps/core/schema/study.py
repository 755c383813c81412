"""Section of a study: experiments that differ in their data, and what is shown of all of them together."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from pipeline_steps.core.schema.values import Name, PathText, Section

# What experiments of one study may differ in: the DAG of each has the same jobs.
VARIED_SECTIONS = frozenset({"build_manifest", "train_reference"})


class CompareExperimentsConfig(Section, frozen=True):
    """`over` maps a name to the sections that are laid over this configuration: an experiment each; null: no study.

    `axis` is the dotted key of the number that their tables and figures are ordered by, `axis_title` what people read
    for it. `published` names a file of published values (resources/published/), null for none.
    """

    over: Annotated[dict[Name, dict[str, Any]], Meta(min_length=1)] | None
    axis: str
    axis_title: str
    published: PathText | None
