"""The model card: what a folder of weights is, in the words of its README.md."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from pipeline_steps.core.errors import without_control

_HEADER = """---
library_name: open_clip
pipeline_tag: zero-shot-image-classification
license: other
license_name: see-licence-section
tags:
- clip
- open_clip
- noisy-correspondence
---"""
_LOAD = """```python
import open_clip
{first}
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:PATH_TO_THIS_FOLDER")
tokenizer = open_clip.get_tokenizer("local-dir:PATH_TO_THIS_FOLDER")
```"""


@dataclass(frozen=True)
class ScoreLine:
    """One score, a fraction in [0, 1], with what it is by chance; `evaluation` and `measure` as people read them.

    It was made on `n` pictures of `split`, as the set calls it; `own`: the measure is the one that the set is known by.
    """

    evaluation: str
    dataset: str
    split: str
    n: int
    measure: str
    value: float
    chance: float
    own: bool = False


@dataclass(frozen=True)
class CardFacts:
    """What a card tells. `report` is build_manifest's, empty where it is not known; `provenance` that of the reference,
    empty where it was trained here; `settings` are the configuration's sections as they were given; `missing` has the
    evaluation sets without scores, with the line that says why.
    """

    method_title: str
    seed: int
    architecture: str
    model_cfg: Mapping[str, Any]
    settings: Mapping[str, Any]
    report: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    scores: Sequence[ScoreLine] = ()
    missing: Mapping[str, str] = field(default_factory=dict)


def model_card(facts: CardFacts) -> str:
    """The card as Markdown with the Hugging Face hub's YAML header."""
    parts = [
        _HEADER,
        f"# {facts.method_title}, {facts.architecture}, seed {facts.seed}",
        "A CLIP model of the pipeline that reproduces NCU, “Unlearning the Noisy Correspondence Makes CLIP More "
        "Robust” (arXiv 2507.03434).",
        "## Load it",
        _loading(facts.model_cfg),
        "## Training pairs",
        _pairs(facts),
        "## Method",
        f"- method: {facts.method_title}\n- seed: {facts.seed}\n- reference: {_reference(facts.provenance)}",
        "## Scores",
        _scores(facts.scores, facts.missing),
        "## Settings",
        f"<details><summary>as they were given</summary>\n\n```json\n{_json(facts.settings)}\n```\n\n</details>",
        "## Licence",
        "The code that trained this model is under the MIT licence. For the weights, the terms of the training pairs "
        "and of the reference's weights hold.",
    ]
    return "\n\n".join(parts) + "\n"


def _loading(model_cfg: Mapping[str, Any]) -> str:
    laclip = str(model_cfg.get("vision_cfg", {}).get("timm_model_name", "")).startswith("laclip_")
    if not laclip:
        return _LOAD.format(first="").replace("open_clip\n\n", "open_clip\n")
    return (
        _LOAD.format(first="import pipeline_steps.models.laclip  # makes the image tower known to timm")
        + "\n\nThe second import must stand before the model is created: the image tower normalises queries and keys "
        "and uses GELU beside a text tower with QuickGELU, which no tower of open_clip or timm does by itself."
    )


def _pairs(facts: CardFacts) -> str:
    report, source = facts.report, f"- source: {_source(facts.settings)}"
    if not report:
        return f"{source}\n- counts: not recorded, the card was written without build_manifest's report"
    splits, noise = report.get("splits", {}), report.get("noise", {})
    lines = [source, f"- rows read: {_count(report.get('rows'))}", f"- pairs kept: {_count(report.get('pairs'))}"]
    lines += [f"- {name} pairs: {_count(number)}" for name, number in splits.items()]
    for section, where in (("unlearn", "in phase 2"), ("train_npc", "by NPC")):
        used = facts.settings.get(section, {}).get("training", {}).get("pairs")
        lines += [f"- of them used {where}: {_count(used)}"] if used else []
    fraction = noise.get("fraction", 0)
    lines.append(
        f"- injected noise: captions of {100 * fraction:g}% of the training pairs shuffled among them; "
        f"{_count(noise.get('noisy_pairs'))} pairs have another pair's caption"
        if fraction
        else "- injected noise: none"
    )
    return "\n".join(lines)


def _source(settings: Mapping[str, Any]) -> str:
    """The name of what the pairs came from; folders of the machine stay out of it."""
    manifest, download = settings.get("build_manifest", {}), settings.get("download_images", {})
    own = next(filter(None, map(manifest.get, ("source_csv", "source_shards", "source_scan"))), None)
    if own:
        return f"`{PurePath(own).name}`"
    listed = download.get("url_list")
    if listed:
        return f"downloaded from the list `{PurePath(listed).name}`"
    embedded = download.get("embedded_parquet")
    return f"the pipeline's own pictures, `{PurePath(embedded).stem}`" if embedded else "not recorded"


def _reference(provenance: Mapping[str, str]) -> str:
    if not provenance:
        return "trained here from scratch (step train_reference)"
    told = {name: PurePath(value).name if name == "source" else value for name, value in provenance.items()}
    return "imported; " + ", ".join(f"{_plain(name)} `{_plain(value)}`" for name, value in told.items())


def _scores(scores: Sequence[ScoreLine], missing: Mapping[str, str]) -> str:
    if not scores and not missing:
        return "Not evaluated: the card was written without scores."
    lines = [
        "| Evaluation | Data set | Split | N | Measure | Score (%) | Chance (%) |", "|---|---|---|---:|---|---:|---:|"
    ]  # fmt: skip
    lines += [
        f"| {line.evaluation} | {_plain(line.dataset)} | {_plain(line.split)} | {line.n:,} | "
        f"{line.measure}{' *' if line.own else ''} | {100 * line.value:.1f} | {100 * line.chance:.1f} |"
        for line in scores
    ]
    lines += ["", "\\* the measure that the set is known by"] if any(line.own for line in scores) else []
    lines += [f"\nNot evaluated on {name}: {_plain(line)}" for name, line in sorted(missing.items())]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """A text that may be a stranger's as words of Markdown, of which nothing is a tag, a cell's end or code."""
    return html.escape(" ".join(without_control(text).split()), quote=False).replace("|", "\\|").replace("`", "'")


def _count(number: object) -> str:
    return f"{number:,}" if isinstance(number, int) else "not recorded"


def _json(value: object) -> str:
    return json.dumps(_without_folders(value), indent=2, ensure_ascii=False)


def _without_folders(value: object) -> object:
    """The same settings with names in place of absolute paths, which are the machine's own business."""
    if isinstance(value, Mapping):
        return {key: _without_folders(member) for key, member in value.items()}
    return PurePath(value).name if isinstance(value, str) and value.startswith("/") else value
