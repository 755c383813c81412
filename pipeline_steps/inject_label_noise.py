"""Put noise into the training labels of an evaluation set, and keep the truth beside them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import write_json
from pipeline_steps.core.step import Step, StepContext

if TYPE_CHECKING:
    from pipeline_steps.core.schema import InjectLabelNoiseConfig
    from pipeline_steps.data.labels import Integers, NoisyLabels
    from pipeline_steps.evaluation.datasets.prepared import PreparedSet, PreparedSplit

_SIDE = 32  # pixels that decide on instance-dependent noise


def run(context: StepContext) -> None:
    """Write the labels, and how many of each class are wrong."""
    import numpy as np

    from pipeline_steps.core.schema import InjectLabelNoiseConfig
    from pipeline_steps.data.labels import NoisyLabels, of_all_classes, write_labels
    from pipeline_steps.evaluation.datasets.prepared import read_prepared

    settings = context.section("inject_label_noise", InjectLabelNoiseConfig)
    found = read_prepared(context.paths["prepared"])
    if "train" not in found.splits:
        raise PipelineError(f"{found.name} has no train split: {found.hole or found.missing.get('train', 'no source')}")
    split = found.splits["train"]
    row = np.flatnonzero(split.labels >= 0)
    noisy = split.labels.copy()
    noisy[row] = _noisy(settings, found, split, row)
    if settings.pictures is not None and settings.pictures < len(row):
        row = of_all_classes(row, split.labels[row], settings.pictures, settings.seed)
    labels = NoisyLabels(row, noisy[row], None if settings.kind == "own" else split.labels[row])
    write_labels(context.paths["labels"], labels)
    report: dict[str, Any] = {
        "pictures": len(row),
        "kind": settings.kind,
        "requested": settings.fraction,
        **_rates(labels, found),
    }
    write_json(context.paths["report"], report)
    context.run.log_metrics({name: float(value) for name, value in report.items() if name in ("pictures", "wrong")})
    context.run.log_file(context.paths["report"])
    context.log.info("%d pictures, of which %s have a wrong label", len(row), report.get("wrong", "an unknown share"))


def _noisy(settings: InjectLabelNoiseConfig, found: PreparedSet, split: PreparedSplit, row: Integers) -> Integers:
    """The noisy labels of the rows (N,)."""
    import numpy as np

    from pipeline_steps.data.label_noise import asymmetric_noise, instance_noise, symmetric_noise
    from pipeline_steps.data.labels import labels_of_file

    truth, classes = split.labels[row], len(found.classes)
    if settings.kind == "own":
        return truth
    if settings.kind == "file":
        return labels_of_file(Path(str(settings.file)), truth, classes=classes)
    if settings.kind == "symmetric":
        own_too = settings.symmetric_draws == "all_classes"
        return symmetric_noise(truth, classes=classes, fraction=settings.fraction, seed=settings.seed, own_too=own_too)
    if settings.kind == "asymmetric":
        target = _targets(settings, found)
        return asymmetric_noise(truth, target_K=target, fraction=settings.fraction, seed=settings.seed)
    pixels = np.stack([np.asarray(split.picture(one).resize((_SIDE, _SIDE)), dtype=np.float32).ravel() for one in row])
    return instance_noise(truth, pixels, classes=classes, fraction=settings.fraction, seed=settings.seed)


def _targets(settings: InjectLabelNoiseConfig, found: PreparedSet) -> Integers:
    """Where each class goes (K,)."""
    import numpy as np

    names = {name: place for place, name in enumerate(found.classes)}
    if settings.transitions is None:
        return np.roll(np.arange(len(names)), -1)
    if unknown := sorted({*settings.transitions, *settings.transitions.values()} - names.keys()):
        raise PipelineError(
            f"inject_label_noise.transitions names {', '.join(unknown)}, and the classes of {found.name} are "
            f"{', '.join(names)}"
        )
    return np.array([names[settings.transitions.get(name, name)] for name in names])


def _rates(labels: NoisyLabels, found: PreparedSet) -> dict[str, object]:
    import numpy as np

    if labels.truth is None or labels.is_clean is None:
        return {}
    present = [(name, labels.truth == k) for k, name in enumerate(found.classes) if (labels.truth == k).any()]
    wrong = {name: float(np.mean(~labels.is_clean[of_class])) for name, of_class in present}
    return {"wrong": float(np.mean(~labels.is_clean)), "wrong_by_true_class": wrong}


STEP = Step(
    name="inject_label_noise",
    summary="Put noise into the training labels of an evaluation set.",
    sections=("inject_label_noise",),
    inputs={"prepared": "folder of prepare_dataset"},
    outputs={"labels": "parquet: row, label, clean_label", "report": "JSON: how many labels are wrong, by class"},
    run=run,
)

if __name__ == "__main__":
    sys.exit(STEP.main())
