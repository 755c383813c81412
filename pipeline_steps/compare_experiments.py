"""Tables and a figure over the experiments of a study."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import whole_folder
from pipeline_steps.core.step import Step, StepContext


def run(context: StepContext) -> None:
    """Write all scores as CSV, two tables as Markdown and the figure; log what is looked at first over the axis."""
    from pipeline_steps.core.schema import CompareExperimentsConfig
    from pipeline_steps.core.study import places_on_axis
    from pipeline_steps.reporting.figures.study import study_figure
    from pipeline_steps.reporting.figures.style import save
    from pipeline_steps.reporting.published import read_published
    from pipeline_steps.reporting.study import (
        control_frame,
        headline_markdown,
        recall_markdown,
        shown_metrics,
        study_frame,
    )

    settings, folders = context.section("compare_experiments", CompareExperimentsConfig), context.several["made"]
    if settings.over is None or len(settings.over) != len(folders):
        raise PipelineError(
            f"--made names {len(folders)} folders, and compare_experiments.over {len(settings.over or {})} "
            "experiments: give one for each, in its order"
        )
    published = read_published(Path(settings.published)) if settings.published else None
    made = dict(zip(settings.over, folders, strict=True))
    places = places_on_axis(context.raw_settings)
    frame, control = study_frame(made, places, published), control_frame(made, places)
    with whole_folder(context.paths["tables"]) as folder:
        frame.to_csv(folder / "scores.csv", index=False)
        (folder / "retrieval.md").write_text(recall_markdown(frame, settings.axis_title, published), encoding="utf-8")
        control.to_csv(folder / "minus_control.csv", index=False)
        (folder / "headlines.md").write_text(headline_markdown(frame, control, settings.axis_title), encoding="utf-8")
    with whole_folder(context.paths["figures"]) as folder:
        save(folder, "scores_over_axis", study_figure(frame, settings.axis_title), frame)
    for name, step, value in shown_metrics(frame):
        context.run.log_metrics({name: value}, step)
    for name in ("tables", "figures"):
        for path in sorted(context.paths[name].iterdir()):
            context.run.log_file(path, name)
    context.log.info("%d experiments in %s", len(made), context.paths["tables"])


STEP = Step(
    name="compare_experiments",
    summary="Tables and a figure over the experiments of a study.",
    sections=("compare_experiments", "build_manifest", "train_reference"),
    inputs={"made": "tables folders of make_tables, one per entry of compare_experiments.over, in its order"},
    outputs={
        "tables": "folder: scores.csv, minus_control.csv, headlines.md, retrieval.md",
        "figures": "folder: the figure as .png, .svg and its data as .csv",
    },
    run=run,
    several=("made",),
    reads={"made": ("*.csv",)},
)

if __name__ == "__main__":
    sys.exit(STEP.main())
