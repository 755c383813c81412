"""The table of methods: a row says which stage trains the method and what tables call it.

A method's loss lives in `pipeline_steps/methods/<name>`; adding a method is that file and a line here.
"""

from __future__ import annotations

from dataclasses import dataclass

REFERENCE = "reference"


@dataclass(frozen=True)
class MethodRow:
    """`stage` is the step whose checkpoint is evaluated under this method's name; `title` is what people read."""

    stage: str
    title: str


METHODS: dict[str, MethodRow] = {
    REFERENCE: MethodRow("train_reference", "CLIP (reference)"),
    "continued": MethodRow("train_baseline", "CLIP, trained on (equal compute)"),
    "gradient_ascent": MethodRow("train_baseline", "Gradient ascent"),
    "ncu": MethodRow("unlearn", "NCU"),
}
