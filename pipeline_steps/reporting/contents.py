"""What is in the folder of tables, and what is not and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline_steps.reporting.paper.layout import LaidTable
from pipeline_steps.reporting.summary import Summary

ABOUT = {
    "summary": "headline measures of every method, with intervals and differences to reference and control",
    "zero_shot": "every data set and measure of zero-shot classification, with what it was made on",
    "linear_probe": "the same of the linear probe",
    "retrieval": "the same of retrieval",
    "forget_set": "how well the forget sets found the injected noise, with the scores in the end",
    "overlap": "test pictures that are training pictures, and the scores without them",
    "holes": "data sets that could not be had",
}
INTERVALS = (
    "`low` and `high` are the percentile bootstrap interval over test pictures, paired in differences: pictures are "
    "drawn with return, for a mean per class within their class, in retrieval with all their captions. `seed_low` and "
    "`seed_high` are Student's t-interval of the mean over seeds of training, with several seeds."
)


def write_contents(folder: Path, laid: Sequence[LaidTable], absent: Mapping[str, str], summary: Summary) -> None:
    """Write README.md into the folder of tables, when everything else is there."""
    forms: dict[str, list[str]] = {}
    for path in sorted(folder.iterdir()):
        forms.setdefault(path.stem, []).append(path.suffix)
    captions = {table.name: f"{_title(table.name)} of the paper: {table.caption}" for table in laid}
    there = [
        f"- `{stem}` ({', '.join(forms[stem])}): {text}" for stem, text in (captions | ABOUT).items() if stem in forms
    ]
    parts = ["# Tables", "\n".join(there), "CSV holds fractions in full precision, the others percent.", INTERVALS]
    if absent:
        parts += ["## Not here", "\n".join(f"- {_title(name)}: {reason}." for name, reason in absent.items())]
    if summary.holes:
        lines = "\n".join(f"- {name}: {reason}" for name, reason in summary.holes.items())
        told = (
            "No average over all sets is given before they are there; `make_tables.averages` names averages of others."
        )
        parts += ["## Data sets that could not be had", lines, told]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _title(name: str) -> str:
    return f"Table {name.removeprefix('table')}"
