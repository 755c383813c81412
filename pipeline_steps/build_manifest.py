"""Builds the manifest of image-caption pairs: checked, filtered, split, with injected noise and its truth."""

from __future__ import annotations

import sys

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import refused_name, write_json
from pipeline_steps.core.step import Step, StepContext


def run(context: StepContext) -> None:
    """Check every picture once, select the pairs, report, and write the manifest when it may be used."""
    from pipeline_steps.core.schema import BuildManifestConfig
    from pipeline_steps.data.assembly import manifest_report, manifest_rows, refusal
    from pipeline_steps.data.database import working_database
    from pipeline_steps.data.intake import create_tables, take_in
    from pipeline_steps.data.manifest import write_manifest, write_pairs_csv
    from pipeline_steps.data.noise import shuffle_captions
    from pipeline_steps.data.pair_source import chosen_pairs
    from pipeline_steps.data.selection import select_pairs

    settings = context.section("build_manifest", BuildManifestConfig)
    given = {name: context.paths[name] for name in ("images", "csv", "shards", "scan") if name in context.paths}
    source = chosen_pairs(given, settings)
    pairs = context.paths["pairs"]
    with working_database(pairs, threads=context.threads) as database:
        create_tables(database)
        take_in(database, source, settings, context.threads)
        counts = select_pairs(database, settings)
        chosen = shuffle_captions(database, settings.noise)
        report = manifest_report(database, counts, settings.noise, chosen)
        problem = refusal(report, settings)
        report_path = refused_name(context.paths["report"]) if problem else context.paths["report"]
        write_json(report_path, report)
        context.run.log_file(report_path)
        context.run.log_metrics(_metrics(report))
        if problem:
            raise PipelineError(f"{problem} All counts: {report_path}")
        write_manifest(pairs, manifest_rows(database), source.root)
    write_pairs_csv(context.paths["pairs_csv"], pairs, source.root)
    context.log.info("dropped rows: %s", report["dropped"])
    context.log.info("broken in shards: %s", report["broken_in_shards"])
    context.log.info("%d pairs of %d rows, %s", report["pairs"], report["rows"], report["splits"])
    context.log.info("injected noise: %s", report["noise"])


def _metrics(report: dict[str, object]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for name, value in report.items():
        members = value.items() if isinstance(value, dict) else [("", value)]
        for member, number in members:
            if isinstance(number, int | float):
                metrics[f"{name}.{member}".removesuffix(".")] = number
    return metrics


STEP = Step(
    name="build_manifest",
    summary="Builds the manifest of image-caption pairs, checked, filtered, split and with injected noise.",
    sections=("build_manifest",),
    inputs={
        "images": "optional: the folder of download_images; this, a CSV or shards",
        "csv": "optional: your own CSV of image paths and captions (else build_manifest.source_csv)",
        "shards": "optional: a folder of webdataset shards, *.tar (else build_manifest.source_shards)",
        "scan": "optional: a folder of images and SCAN's split files (else build_manifest.source_scan)",
    },
    outputs={
        "pairs": "the manifest (parquet): id, picture, size, caption, split, and the truth of the injected noise",
        "pairs_csv": "its training split as CSV: image_path (from the CSV's folder), text_content",
        "report": "JSON: what was read, dropped and why, the splits, the noise",
    },
    run=run,
    reads={
        "images": ("*/*.jpg", "*/*.png", "*/*.webp", "*/*.txt", "*.tar"),
        "shards": ("*.tar",),
        "scan": ("annotations/scan_split/*.txt",),
    },
)

if __name__ == "__main__":
    sys.exit(STEP.main())
