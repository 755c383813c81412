"""Builds the manifest of image-caption pairs: checked, filtered, split, with injected noise and its truth."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import refused_name, write_json
from pipeline_steps.core.schema import BuildManifestConfig
from pipeline_steps.core.step import Step, StepContext
from pipeline_steps.data.image_check import check_pictures
from pipeline_steps.data.manifest import write_manifest, write_pairs_csv
from pipeline_steps.data.pair_source import PairSource, csv_pairs, downloaded_pairs
from pipeline_steps.data.selection import manifest_report, manifest_table, refusal, select_pairs


def run(context: StepContext) -> None:
    """Check every picture once, select the pairs, report, and write the manifest when it may be used."""
    settings = context.section("build_manifest", BuildManifestConfig)
    source = _source(context, settings)
    pictures = check_pictures(
        source.root,
        sorted(set(source.image_paths)),
        max_image_pixels=settings.max_image_pixels,
        processes=context.threads,
    )
    pairs, counts = select_pairs(source.image_paths, source.captions, pictures, settings)
    table = manifest_table(pairs, settings.validation_fraction, settings.noise)
    report = manifest_report(len(source.captions), pictures, counts, table, settings.noise)
    problem = refusal(report, settings)
    report_path = refused_name(context.paths["report"]) if problem else context.paths["report"]
    write_json(report_path, report)
    context.run.log_file(report_path)
    context.run.log_metrics(_metrics(report))
    if problem:
        raise PipelineError(f"{problem} All counts: {report_path}")
    write_manifest(context.paths["pairs"], table, source.root)
    write_pairs_csv(context.paths["pairs_csv"], table, source.root)
    context.log.info("dropped rows: %s", report["dropped"])
    context.log.info("%d pairs of %d rows, %s", report["pairs"], report["rows"], report["splits"])
    context.log.info("injected noise: %s", report["noise"])


def _source(context: StepContext, settings: BuildManifestConfig) -> PairSource:
    csv = context.paths.get("csv", Path(settings.source_csv) if settings.source_csv else None)
    images = context.paths.get("images")
    if csv is not None and images is not None:
        raise PipelineError(
            f"pairs come from --images ({images}) or from a CSV ({csv}: --csv or build_manifest.source_csv), not both; "
            "leave one out"
        )
    if csv is not None:
        return csv_pairs(csv, settings)
    if images is not None:
        return downloaded_pairs(images)
    raise PipelineError("no pairs: give --images, the folder of download_images, or --csv, your own CSV")


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
        "images": "optional: the folder of download_images; this or a CSV",
        "csv": "optional: your own CSV of image paths and captions (else build_manifest.source_csv)",
    },
    outputs={
        "pairs": "the manifest (parquet): id, picture, size, caption, split, and the truth of the injected noise",
        "pairs_csv": "its training split as CSV: image_path (from the CSV's folder), text_content",
        "report": "JSON: what was read, dropped and why, the splits, the noise",
    },
    run=run,
    reads={"images": ("*/*.jpg", "*/*.png", "*/*.webp", "*/*.txt")},
)

if __name__ == "__main__":
    sys.exit(STEP.main())
