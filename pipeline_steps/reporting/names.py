"""What files and people call the evaluations, measures, methods and stages. Imports no numerics, so it loads fast."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline_steps.core.methods import METHODS
from pipeline_steps.core.schema import Config

ZERO_SHOT, LINEAR_PROBE, RETRIEVAL = "eval_zeroshot", "eval_probe", "eval_retrieval"
CHANCE = "chance_"  # the evaluations write chance_M beside every measure M
CONTROL = "continued"
MISSING, AT_CHANCE = "—", "†"
AVERAGE_MARK = "@"  # between a headline's key and the name of an average over some of the sets


@dataclass(frozen=True)
class Headline:
    """A column of the summary: `key` in files, `measure` of evaluation `stage`, `title` for people."""

    key: str
    stage: str
    measure: str
    title: str


HEADLINES = (
    Headline("zero_shot_top1", ZERO_SHOT, "top1", "Zero-shot top-1"),
    Headline("zero_shot_mean_per_class", ZERO_SHOT, "mean_per_class", "Zero-shot mean per class"),
    Headline("linear_probe_accuracy", LINEAR_PROBE, "accuracy", "Linear probe"),
    Headline("mean_recall", RETRIEVAL, "mean_recall", "Mean recall"),
)


def column_title(key: str, sets: int | None = None) -> str:
    """What people read for a column of the summary: `<headline>` or `<headline>@<average>`, over so many sets."""
    base, _, average = key.partition(AVERAGE_MARK)
    title = next(headline.title for headline in HEADLINES if headline.key == base)
    number = f"{sets} sets" if sets is not None and sets > 1 else ""
    over = ", ".join(part for part in (average, number) if part)
    return f"{title} ({over})" if over else title


def title_of(method: str) -> str:
    """What people read for a method."""
    return METHODS[method].title if method in METHODS else method


def measure_title(measure: str) -> str:
    """`image_to_text_recall@5` as `image to text R@5`, `top1` as `top-1`, `mean_recall` as `mean recall`."""
    readable = measure.replace("_recall@", " R@").replace("_", " ")
    return f"top-{readable[3:]}" if readable.startswith("top") else readable


def stage_order() -> list[str]:
    """The stages in the order of the pipeline: the sections of the configuration, of which steps are some."""
    return list(Config.__struct_fields__)
