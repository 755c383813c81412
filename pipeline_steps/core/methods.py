"""The table of methods: a row says which stage trains the method, what tables call it, and which settings are its own.

A loss of its own lives in `pipeline_steps/methods/<name>`; adding a method is that file and a line here. An ablation,
control or sweep that only sets keys is the line alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

REFERENCE = "reference"
CLASSIFIER = "train_classifier"  # the stage of what is no CLIP: listed under `classifiers`


@dataclass(frozen=True)
class MethodRow:
    """`stage` is the step whose checkpoint is evaluated under this method's name; `title` is what people read.

    `settings` are laid over the configuration's sections for this method's steps.
    """

    stage: str
    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def _ncu(title: str, both: Mapping[str, Any] | None = None, **unlearn: Any) -> MethodRow:
    """NCU with settings `both` in its two phases and `unlearn` in the second."""
    return MethodRow("unlearn", title, {"learn_prompt": dict(both or {}), "unlearn": {**(both or {}), **unlearn}})


def _labels(title: str, labels: str) -> MethodRow:
    """The classifier without a selection, and without the widening of one."""
    return MethodRow(CLASSIFIER, title, {"train_classifier": {"labels": labels, "mixfix": False}})


def _one_rule(title: str, rule: str) -> MethodRow:
    """The classifier on the half of the labels that one rule finds the cleanest."""
    settings = {"select_clean": {"rules": [rule], "agree": 1, "share": 0.5}}
    return MethodRow(CLASSIFIER, f"{title}, half of the labels", settings)


METHODS: dict[str, MethodRow] = {
    REFERENCE: MethodRow("train_reference", "CLIP (reference)"),
    # Baselines, at NCU's compute.
    "continued": MethodRow("train_baseline", "CLIP, trained on (equal compute)"),
    "gradient_ascent": MethodRow("train_baseline", "Gradient ascent"),
    "softclip": MethodRow("train_baseline", "Softened targets (after SoftCLIP)"),
    "filter_continue": MethodRow("train_baseline", "CLIP, forget set left out"),
    "ncu": MethodRow("unlearn", "NCU"),
    # Ablations of Table 5.
    "ncu_v1": _ncu("NCU V1: textual negative prefixes", {"negative_text": {"source": "prefix"}}),
    "ncu_v2": _ncu("NCU V2: plain L2 distance", {"separation": {"kind": "l2"}}),
    "ncu_v3": _ncu("NCU V3: false negatives only", realign="false_negatives"),
    "ncu_v4": _ncu("NCU V4: false positives only", realign="false_positives"),
    # Controls.
    "ncu_no_transport": _ncu("NCU, gamma = 0 (no transport)", gamma=0.0),
    "ncu_random_forget_set": _ncu("NCU, random forget set", {"forget_set": {"selection": "random"}}),
    "ncu_random_negative": _ncu("NCU, random negative text", {"negative_text": {"source": "random_caption"}}),
    # Sweeps of P and gamma, and the partial data of Fig. 4.
    **{
        f"ncu_p{round(100 * share):02d}": _ncu(f"NCU, P = {share}", {"forget_set": {"fraction": share}})
        for share in (0.05, 0.2, 0.3, 0.4)
    },
    **{f"ncu_gamma{round(100 * gamma):02d}": _ncu(f"NCU, gamma = {gamma}", gamma=gamma) for gamma in (0.3, 0.5, 0.9)},
    **{
        f"ncu_{thousands}k": _ncu(f"NCU, {thousands / 1000:g}M pairs", {"training": {"pairs": 1000 * thousands}})
        for thousands in (500, 1000, 1500, 2000, 2500)
    },
    # Neighbouring systems.
    "npc": MethodRow("train_npc", "NPC"),
    "ncu_small_loss": _ncu("NCU, small-loss forget set", {"forget_set": {"selection": "small_loss"}}),
    "ncu_consistency": _ncu("NCU, consistency forget set", {"forget_set": {"selection": "consistency"}}),
    # Classifiers on noisy labels: what CLIPCleaner selects, two bounds, and three rules at equal share.
    "clipcleaner": MethodRow(CLASSIFIER, "CLIPCleaner"),
    "all_labels": _labels("All labels as given", "all"),
    "true_labels": _labels("True labels alone (oracle)", "true"),
    "zeroshot_loss_labels": _one_rule("Zero-shot small-loss mixture", "zeroshot_loss"),
    "zeroshot_consistency_labels": _one_rule("Zero-shot consistency", "zeroshot_consistency"),
    "confidence_labels": _one_rule("NCU's in-batch confidence", "confidence"),
}
