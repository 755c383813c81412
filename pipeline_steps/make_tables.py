"""Tables, figures and findings of an experiment, from the evaluations of every method and seed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_steps.core.files import whole_folder, write_text
from pipeline_steps.core.step import Step, StepContext

if TYPE_CHECKING:
    import pandas as pd

    from pipeline_steps.reporting.grid import Grid


def run(context: StepContext) -> None:
    """Write tables, figures and findings, or refuse with everything that is missing from the grid named."""
    from threadpoolctl import threadpool_limits

    from pipeline_steps.core.schema import ImportReferenceConfig, MakeTablesConfig, UnlearnConfig
    from pipeline_steps.reporting.contents import write_contents
    from pipeline_steps.reporting.figures.partial_data import pairs_in_use
    from pipeline_steps.reporting.figures.write import write_figures
    from pipeline_steps.reporting.findings import findings_text
    from pipeline_steps.reporting.forget_set import write_forget_set
    from pipeline_steps.reporting.grid import read_grid
    from pipeline_steps.reporting.history import forget_frame, read_histories
    from pipeline_steps.reporting.measured import Bootstrap, measure_grid
    from pipeline_steps.reporting.overlap import overlap_tables
    from pipeline_steps.reporting.paper.layout import classification_places, lay_out
    from pipeline_steps.reporting.paper.render import write_paper_tables
    from pipeline_steps.reporting.paper.values import read_paper
    from pipeline_steps.reporting.summary import summarise
    from pipeline_steps.reporting.tables import write_tables

    settings, paths = context.section("make_tables", MakeTablesConfig), context.paths
    methods, seeds = context.section("methods", tuple[str, ...]), context.section("seeds", tuple[int, ...])
    pairs = pairs_in_use(methods, paths["results"], context.section("unlearn", UnlearnConfig).training.pairs)
    paper, grid = read_paper(paths["paper"]), read_grid(paths["results"], methods, seeds)
    with threadpool_limits(context.threads or None):
        bootstrap = Bootstrap(settings.bootstrap_samples, settings.confidence, context.seed)
        measured = measure_grid(grid, bootstrap)
        similarities = {method: _similarities(paths["results"], grid, method) for method in grid.methods}
    summary = summarise(measured, settings.averages)
    laid, absent = lay_out(paper, measured, settings)
    places = classification_places(grid, settings.class_metric)
    history = read_histories(paths["results"], methods, seeds)
    with whole_folder(paths["tables"]) as folder:
        write_tables(folder, measured, summary)
        write_forget_set(folder, history, summary)
        write_paper_tables(folder, laid, grid, settings.confidence)
        if "overlaps" in paths:
            overlap_tables(folder, grid, paths["overlaps"], places)
        write_contents(folder, laid, absent, summary)
    with whole_folder(paths["figures"]) as folder:
        zero_shot = [place for place in places if place.stage == "eval_zeroshot"]
        write_figures(
            folder, measured, zero_shot=zero_shot, pairs=pairs, similarities=similarities, history=history
        )  # fmt: skip
    imported = context.section("import_reference", ImportReferenceConfig).weights
    write_text(paths["findings"], findings_text(summary, forget_frame(history), imported))
    for name in ("tables", "figures"):
        for path in sorted(paths[name].iterdir()):
            context.run.log_file(path, name)
    context.run.log_file(paths["findings"])
    context.log.info("%d methods x %d seeds in %s", len(grid.methods), len(seeds), paths["tables"])


def _similarities(results: Path, grid: Grid, method: str) -> pd.DataFrame:
    import pandas as pd

    from pipeline_steps.evaluation.features.index import Features
    from pipeline_steps.evaluation.similarity import validation_similarities

    folder = results / "extract_features" / method
    files = [Features(folder / f"seed{seed}" / "features.json") for seed in grid.seeds]
    return pd.concat([validation_similarities(file) for file in files], ignore_index=True)


STEP = Step(
    name="make_tables",
    summary="Tables, figures and findings over all methods and seeds.",
    sections=("make_tables", "methods", "seeds", "unlearn", "import_reference"),
    inputs={
        "results": "results/<experiment>: evaluations, features and histories of every method and seed",
        "paper": "the paper's values and the layout of its tables: resources/paper/tables.yaml",
        "overlaps": "optional: check_overlap's list of test pictures that are training pictures",
    },
    outputs={
        "tables": "folder: the paper's tables and those of everything measured, as .csv, .md and .tex",
        "figures": "folder: each figure as .png, .svg and its data as .csv",
        "findings": "Markdown: what came out, in two sentences",
    },
    run=run,
    reads={"results": (
        "eval_*/*/seed*/*.json", "eval_*/*/seed*/*.parquet", "*/*/seed*/history.parquet", "build_manifest/report.json",
    )},
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(STEP.main())
