"""CLIPCleaner's classifier: mixed consistency training on the samples that were selected."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pipeline_steps.core.files import whole_file, write_json
from pipeline_steps.core.step import Step, StepContext

if TYPE_CHECKING:
    import torch

    from pipeline_steps.core.schema import TrainClassifierConfig
    from pipeline_steps.data.labels import Integers
    from pipeline_steps.training.classifier import Sources


def run(context: StepContext) -> None:
    """Train, then score the last epoch's weights on the test split; its pictures choose nothing."""
    import numpy as np
    import pandas as pd
    import torch
    from safetensors.torch import save

    from pipeline_steps.core.schema import TrainClassifierConfig
    from pipeline_steps.evaluation.zero_shot import mean_per_class
    from pipeline_steps.models.classifier import create_classifier
    from pipeline_steps.models.device import best_device
    from pipeline_steps.training.classifier import train_classifier
    from pipeline_steps.training.state import state_path

    settings = context.section("train_classifier", TrainClassifierConfig)
    if context.threads:
        torch.set_num_threads(context.threads)
    torch.manual_seed(context.seed)
    sources = _sources(context, settings)
    model = create_classifier(settings.architecture, sources.classes, small_stem=settings.small_stem)
    device, state_file = best_device(), state_path(context.paths["scores"])
    history = train_classifier(
        model, sources, settings, seed=context.seed, device=device, state_file=state_file,
        fingerprint=f"{context.run.fingerprint}-{context.seed}",
        on_epoch=lambda epoch, measured: context.run.log_metrics(measured, epoch),
    )  # fmt: skip
    label, prediction = _tested(context, model, settings, device)
    scores: dict[str, Any] = {"accuracy": float(np.mean(prediction == label)), "n": len(label), "epochs": len(history)}
    scores |= {"mean_per_class": mean_per_class(label, prediction), "chance_accuracy": 1 / sources.classes}
    scores |= {"n_train": len(sources.label_N), "first_selected": int(sources.selected_N.sum())}
    scores |= {"labels": settings.labels}
    frames = {
        "history": pd.DataFrame(history).rename_axis("epoch").reset_index(),
        "predictions": pd.DataFrame({"label": label, "prediction": prediction}),
    }
    for name, frame in frames.items():
        with whole_file(context.paths[name]) as partial:
            frame.to_parquet(partial, index=False)
    with whole_file(context.paths["weights"]) as partial:
        partial.write_bytes(save({name: one.cpu().contiguous() for name, one in model.state_dict().items()}))
    write_json(context.paths["scores"], scores)
    context.run.log_scores({"classifier/accuracy": scores["accuracy"]})
    context.run.log_file(context.paths["scores"])
    state_file.unlink(missing_ok=True)
    context.log.info("accuracy %.1f%% on %d test pictures", 100 * scores["accuracy"], scores["n"])


def _sources(context: StepContext, settings: TrainClassifierConfig) -> Sources:
    import torch

    from pipeline_steps.data.labels import read_labels, starting_selection
    from pipeline_steps.evaluation.datasets.prepared import read_prepared
    from pipeline_steps.training.classifier import ClassifierPictures, Sources, transforms_of

    found, labels = read_prepared(context.paths["prepared"]), read_labels(context.paths["labels"])
    train = found.splits["train"]
    random, plain = transforms_of(settings)
    return Sources(
        training=ClassifierPictures(train.picture, labels.row, random, context.seed),
        plain=ClassifierPictures(train.picture, labels.row, plain, context.seed),
        label_N=torch.from_numpy(labels.label),
        selected_N=torch.from_numpy(starting_selection(settings.labels, labels, context.paths["selection"])),
        truth_N=None if labels.truth is None else torch.from_numpy(labels.truth),
        classes=len(found.classes),
    )


def _tested(
    context: StepContext, model: torch.nn.Module, settings: TrainClassifierConfig, device: torch.device
) -> tuple[Integers, Integers]:
    """Labels and predictions of the test split."""
    import numpy as np

    from pipeline_steps.evaluation.datasets.prepared import read_prepared
    from pipeline_steps.training.classifier import ClassifierPictures, predict, transforms_of

    test = read_prepared(context.paths["prepared"]).splits["test"]
    row = np.flatnonzero(test.labels >= 0)
    pictures = ClassifierPictures(test.picture, row, transforms_of(settings)[1], context.seed)
    return test.labels[row], predict(model, pictures, settings, device).argmax(dim=1).numpy()


STEP = Step(
    name="train_classifier",
    summary="Train a classifier on the samples that CLIPCleaner selected.",
    sections=("train_classifier",),
    inputs={
        "prepared": "folder of prepare_dataset", "labels": "labels.parquet of inject_label_noise",
        "selection": "selection.parquet of select_clean",
    },
    outputs={
        "scores": "JSON", "history": "parquet, a row per epoch", "predictions": "parquet: label, prediction",
        "weights": "safetensors of the timm model",
    },
    run=run,
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(STEP.main())
