"""Two sentences that are true for whatever came out."""

from __future__ import annotations

import pandas as pd

from pipeline_steps.core.methods import REFERENCE
from pipeline_steps.reporting.measured import Difference, Score
from pipeline_steps.reporting.names import CONTROL, title_of
from pipeline_steps.reporting.summary import Column, Summary

SUBJECT = "ncu"
_MEASURES = {
    "mean_recall": "mean recall", "zero_shot_top1": "zero-shot top-1", "linear_probe_accuracy": "linear probe accuracy",
}  # fmt: skip


def findings_text(summary: Summary, forget: pd.DataFrame, imported: str | None = None) -> str:
    """What the noisy captions left, and where NCU stands, as exactly two sentences.

    `forget` is `forget_frame` of the histories; it is empty without injected noise. `imported`: the file or tag that
    the reference was imported from, whose captions nobody here knows. Where NCU is not among the methods, the last
    trained method other than the control takes its place; where there is none, that is said.
    """
    return f"{_reference_sentence(summary, forget, imported)} {_method_sentence(summary)}\n"


def _reference_sentence(summary: Summary, forget: pd.DataFrame, imported: str | None) -> str:
    noise = forget.loc[forget["name"] == "base_rate", "value"]
    origin = "trained on captions as they came"
    if imported:
        origin = f"imported from {imported}"
    elif len(noise):
        origin = f"trained on captions of which {_percent(float(noise.mean()), 0)} had been shuffled among pictures"
    reached = [
        _against_chance(summary.cells[REFERENCE, column.key].score, _named(name, column))
        for name, column in _given(summary)
    ]
    return f"The reference, {origin}, {_reaches(reached)}{_forget_clause(forget)}."


def _given(summary: Summary) -> list[tuple[str, Column]]:
    """The measures of the findings that have numbers, each with its column."""
    found = [(name, summary.given(key)) for key, name in _MEASURES.items()]
    return [(name, column) for name, column in found if column]


def _named(name: str, column: Column) -> str:
    """A measure with the average that it is of, where that is not over all sets."""
    return f"{name} on {column.average} ({column.sets} sets)" if column.average else name


def _reaches(reached: list[str]) -> str:
    return f"reaches {_listed(reached)}" if reached else "has no mean over all sets, some of which are missing"


def _forget_clause(forget: pd.DataFrame) -> str:
    of_subject = forget[forget["method"] == SUBJECT]
    if of_subject.empty:
        return ""
    means = of_subject.groupby("name")["value"].mean()
    share, base = float(means["precision"]), float(means["base_rate"])
    relation = "more" if share > base else "no more"
    return (
        f"; {_percent(share)} of the pairs in {title_of(SUBJECT)}'s forget sets were shuffled ones, {relation} than "
        f"the {_percent(base)} of a random pick"
    )


def _against_chance(score: Score, name: str) -> str:
    relation = "chance" if score.above_chance else "which is not above chance,"
    return f"{_percent(score.mean)} {name} ({relation} {_percent(score.chance)})"


def _method_sentence(summary: Summary) -> str:
    if summary.methods == (REFERENCE,):
        return "No method was trained beside it, so there is nothing to compare it with."
    subject = _subject(summary)
    clauses: list[str] = []
    unit = f" points, {100 * summary.confidence:g}% interval"
    for name, column in _given(summary):
        owner = "its" if clauses else f"{title_of(subject)}'s"
        cell = summary.cells[subject, column.key]
        others = [("the equal-compute control", cell.to_control), ("the reference", cell.to_reference)]
        compared = []
        for other, difference in others:
            if difference:
                compared.append(_compared(other, difference, unit))
                unit = ","
        clauses.append(f"{owner} {_named(name, column)} of {_percent(cell.score.mean)} is {' and '.join(compared)}")
    if not clauses:
        needed = ", ".join(summary.holes)
        return f"{title_of(subject)} cannot be placed before these sets are there: {needed}; {_limit(summary)}."
    return f"{_listed(clauses, ', and ')}; {_limit(summary)}."


def _compared(other: str, difference: Difference, unit: str) -> str:
    low, high = (100 * bound for bound in difference.interval)
    return f"{difference.verdict} {other} ({100 * difference.estimate:+.1f}{unit} {low:+.1f} to {high:+.1f})"


def _subject(summary: Summary) -> str:
    trained = [method for method in summary.methods if method != REFERENCE]
    if SUBJECT in trained:
        return SUBJECT
    return [method for method in trained if method != CONTROL][-1] if trained != [CONTROL] else CONTROL


def _limit(summary: Summary) -> str:
    if CONTROL not in summary.methods:
        return f"the equal-compute control (`{CONTROL}`) was not run, so the training itself may explain a difference"
    if len(summary.seeds) == 1:
        return "one seed was run, so the intervals cover the choice of test pictures and not the luck of training"
    return f"the intervals cover the choice of test pictures, for the mean over {len(summary.seeds)} seeds"


def _listed(parts: list[str], last: str = " and ") -> str:
    return last.join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def _percent(fraction: float, decimals: int = 1) -> str:
    return f"{100 * fraction:.{decimals}f}%"
