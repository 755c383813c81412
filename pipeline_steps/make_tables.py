"""Tables, figures and findings of an experiment, from the evaluations of every method and seed."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from threadpoolctl import threadpool_limits

from pipeline_steps.core.files import whole_folder, write_text
from pipeline_steps.core.schema import MakeTablesConfig
from pipeline_steps.core.step import Step, StepContext
from pipeline_steps.evaluation.feature_file import FeatureFile
from pipeline_steps.evaluation.similarity import validation_similarities
from pipeline_steps.reporting.figures import write_figures
from pipeline_steps.reporting.findings import findings_text
from pipeline_steps.reporting.grid import Grid, read_grid
from pipeline_steps.reporting.history import forget_frame, read_histories
from pipeline_steps.reporting.statistics import Bootstrap
from pipeline_steps.reporting.summary import summarise
from pipeline_steps.reporting.tables import write_tables


def run(context: StepContext) -> None:
    """Write tables, figures and findings, or refuse with every hole of the grid named."""
    settings = context.section("make_tables", MakeTablesConfig)
    methods, seeds = context.section("methods", tuple[str, ...]), context.section("seeds", tuple[int, ...])
    results = context.paths["results"]
    bootstrap = Bootstrap(settings.bootstrap_samples, settings.confidence, context.seed)
    grid = read_grid(results, methods, seeds)
    with threadpool_limits(context.threads or None):
        similarities = {method: _similarities(results, grid, method) for method in grid.methods}
        summary = summarise(grid, bootstrap)
    history = read_histories(results, methods, seeds)
    with whole_folder(context.paths["tables"]) as folder:
        write_tables(folder, grid, summary)
    with whole_folder(context.paths["figures"]) as folder:
        write_figures(folder, grid, bootstrap, similarities=similarities, history=history)
    write_text(context.paths["findings"], findings_text(summary, forget_frame(history)))
    for name in ("tables", "figures"):
        for path in sorted(context.paths[name].iterdir()):
            context.run.log_file(path, name)
    context.run.log_file(context.paths["findings"])
    context.log.info("%d methods x %d seeds in %s", len(grid.methods), len(seeds), context.paths["tables"])


def _similarities(results: Path, grid: Grid, method: str) -> pd.DataFrame:
    folder = results / "extract_features" / method
    files = [FeatureFile(folder / f"seed{seed}" / "features.safetensors") for seed in grid.seeds]
    return pd.concat([validation_similarities(file) for file in files], ignore_index=True)


STEP = Step(
    name="make_tables",
    summary="Tables, figures and findings over all methods and seeds.",
    sections=("make_tables", "methods", "seeds"),
    inputs={"results": "results/<experiment>: evaluations, features and histories of every method and seed"},
    outputs={
        "tables": "folder: zero_shot, linear_probe, retrieval and summary, as .csv and .md",
        "figures": "folder: each figure as .png, .svg and its data as .csv",
        "findings": "Markdown: what came out, in two sentences",
    },
    run=run,
    reads={"results": ("eval_*/*/seed*/*.json", "eval_*/*/seed*/*.parquet", "*/*/seed*/history.parquet")},
)

if __name__ == "__main__":
    sys.exit(STEP.main())
