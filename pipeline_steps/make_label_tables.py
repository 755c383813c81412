"""Tables of what was selected of noisy labels and of the classifiers trained on it."""

from __future__ import annotations

import sys

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import whole_folder
from pipeline_steps.core.step import Step, StepContext


def run(context: StepContext) -> None:
    """Write selection.csv, by_class.csv, classifiers.csv, README.md and the figure."""
    from pipeline_steps.reporting.figures.style import save
    from pipeline_steps.reporting.label_tables import (
        class_frame,
        classifier_frame,
        label_figure,
        label_markdown,
        selection_frame,
    )

    methods, seeds = context.section("classifiers", tuple[str, ...]), context.section("seeds", tuple[int, ...])
    cells = [(method, seed) for method in methods for seed in seeds]
    reports, scores = context.several["selections"], context.several["scores"]
    if not len(cells) == len(reports) == len(scores):
        raise PipelineError(
            f"{len(reports)} --selections and {len(scores)} --scores are given for {len(cells)} methods and seeds; "
            "give one of each, method by method"
        )
    classifiers = classifier_frame(cells, scores)
    selecting = [place for place, labels in enumerate(classifiers["labels"]) if labels == "selected"]
    chosen = [cells[place] for place in selecting], [reports[place] for place in selecting]
    selections, by_class = selection_frame(*chosen), class_frame(*chosen)
    with whole_folder(context.paths["tables"]) as folder:
        selections.to_csv(folder / "selection.csv", index=False)
        classifiers.to_csv(folder / "classifiers.csv", index=False)
        by_class.to_csv(folder / "by_class.csv", index=False)
        (folder / "README.md").write_text(label_markdown(selections, by_class, classifiers), encoding="utf-8")
        if selections["precision"].notna().any():
            save(folder, "precision_recall", label_figure(selections), selections)
    for path in sorted(context.paths["tables"].iterdir()):
        context.run.log_file(path, "label_tables")
    context.log.info("%d classifiers in %s", len(cells), context.paths["tables"])


STEP = Step(
    name="make_label_tables",
    summary="Tables of what was selected of noisy labels, and of the classifiers trained on it.",
    sections=("classifiers", "seeds"),
    inputs={
        "selections": "report.json of select_clean, method by method and seed by seed",
        "scores": "scores.json of train_classifier, in the same order",
    },
    outputs={"tables": "folder: selection.csv, by_class.csv, classifiers.csv, README.md and the figure"},
    run=run,
    several=("selections", "scores"),
)

if __name__ == "__main__":
    sys.exit(STEP.main())
