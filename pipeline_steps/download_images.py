"""Downloads the pictures of a URL list with img2dataset, and counts what failed by cause."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import read_json, refused_name, sha256_of, write_json
from pipeline_steps.core.step import Step, StepContext

if TYPE_CHECKING:
    from pipeline_steps.core.schema import DownloadImagesConfig
    from pipeline_steps.data.failures import Outcome
    from pipeline_steps.data.parts import Part


def run(context: StepContext) -> None:
    """Download a list or a part of it, or bring its parts together."""
    from pipeline_steps.core.schema import DownloadImagesConfig
    from pipeline_steps.data.parts import Part

    settings = context.section("download_images", DownloadImagesConfig)
    if "parts" in context.several:
        _bring_together(context, settings)
    else:
        _download(context, settings, Part.parse(context.options.get("part", "1-of-1")))


def _download(context: StepContext, settings: DownloadImagesConfig, part: Part) -> None:
    """Download, report, and make the folder the output when enough URLs gave a picture; of a part, when any did."""
    from pipeline_steps.data.download import Workplace, fetch
    from pipeline_steps.data.failures import falls_short, shortfall
    from pipeline_steps.data.url_source import url_source

    path = context.paths.get("source", Path(settings.url_list or settings.embedded_parquet))
    started, digest = time.monotonic(), sha256_of(path)
    with url_source(path, settings, part) as source:
        work = Workplace(context.paths["images"], source, settings)
        there = f"; {kept} shards are there" if (kept := len(work.finished_shards())) else ""
        context.log.info("%d URLs from %s%s", source.table.num_rows, path, there)
        fetch(source, settings, work)
    facts = {"part": part, "source_sha256": digest, "seconds": time.monotonic() - started}
    context.run.set_tags({"input.source.sha256": digest})
    outcome = source.outcome(work.shards, settings.retry_passes)
    if outcome.lost:
        context.run.log_file(work.log)
    if falls_short(outcome, least := settings.min_success_fraction if part.of == 1 else None):
        told = _report(context, outcome, facts, refused=True)
        work.forget_shards(settings.min_success_fraction or sys.float_info.min)  # those without any, at least
        raise PipelineError(
            f"{shortfall(outcome, least)} What was fetched well is kept for the next run. All counts: {told}"
        )
    _report(context, outcome, facts)
    work.publish()


def _bring_together(context: StepContext, settings: DownloadImagesConfig) -> None:
    """One folder and one report out of those of all parts, judged together."""
    from pipeline_steps.data.failures import falls_short, shortfall, sum_of_reports
    from pipeline_steps.data.parts import bring_together, poor_parts, require_one_list

    again = "Remove it, which has that part downloaded again."
    reports = [read_json(path, dict[str, Any], again) for path in context.several["part_reports"]]
    require_one_list(context.several["parts"], reports)
    outcome, facts = sum_of_reports(reports), {"seconds": sum(report["seconds"] for report in reports)}
    if falls_short(outcome, settings.min_success_fraction):
        told = _report(context, outcome, facts, refused=True)
        poor = poor_parts(context.several["parts"], reports, settings.min_success_fraction)
        raise PipelineError(f"{shortfall(outcome, settings.min_success_fraction)} {poor} All counts: {told}")
    _report(context, outcome, facts)
    bring_together(context.several["parts"], context.paths["images"])


def _report(context: StepContext, outcome: Outcome, facts: Mapping[str, Any], *, refused: bool = False) -> Path:
    """Write and log the outcome with further facts, of which `seconds` are those of all parts. Returns the file."""
    path = refused_name(context.paths["report"]) if refused else context.paths["report"]
    write_json(path, {**outcome.report(), **facts})
    scores = {name: getattr(outcome, name) for name in ("succeeded", "recovered", "success_fraction", "bytes")}
    context.run.log_metrics(scores | {f"failures.{cause}": count for cause, count in outcome.causes().items()})
    context.run.log_file(path)
    told = (outcome.succeeded, outcome.urls, facts["seconds"], outcome.listed() or "none")
    context.log.info("%d of %d URLs gave a picture, in %.0f s; failures: %s", *told)
    return path


STEP = Step(
    name="download_images",
    summary="Downloads the pictures of a URL list with img2dataset and counts what failed by cause.",
    sections=("download_images",),
    inputs={
        "source": "optional: the URL list or the bundled parquet, in place of the path in the settings",
        "parts": "optional: the image folders of all parts of a list, to bring together in place of a download",
        "part_reports": "optional: their reports, in the same order",
    },
    outputs={
        "images": "img2dataset's folder: NNNNN/<key>.<format>, .txt, .json (or these in NNNNN.tar) and NNNNN.parquet",
        "report": "JSON: URLs, successes, failures by cause, bytes, seconds",
    },
    run=run,
    reads={"parts": ("*.parquet",)},
    several=("parts", "part_reports"),
    options={"part": "optional: which part of the list to download, such as 3-of-16"},
)

if __name__ == "__main__":
    sys.exit(STEP.main())
