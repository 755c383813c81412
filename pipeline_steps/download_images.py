"""Downloads the pictures of a URL list with img2dataset, and counts what failed by cause."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import refused_name, sha256_of, write_json
from pipeline_steps.core.schema import DownloadImagesConfig
from pipeline_steps.core.step import Step, StepContext
from pipeline_steps.data.download import Workplace, fetch
from pipeline_steps.data.failures import Outcome, read_outcome
from pipeline_steps.data.url_source import url_source


def run(context: StepContext) -> None:
    """Download, report, and make the folder the output when enough URLs gave a picture."""
    settings = context.section("download_images", DownloadImagesConfig)
    path = context.paths.get("source", Path(settings.url_list or settings.embedded_parquet))
    started = time.monotonic()
    with url_source(path, settings) as source:
        work = Workplace(context.paths["images"], source, settings)
        kept = len(work.finished_shards())
        context.log.info("%d URLs from %s%s", source.table.num_rows, path, f"; {kept} shards are there" if kept else "")
        fetch(source, settings, work)
    if "source" not in context.paths:
        context.run.set_tags({"input.source.sha256": sha256_of(path)})
    outcome = read_outcome(work.shards, asked=source.table.num_rows, refused_urls=source.refused_urls)
    too_few = outcome.success_fraction < settings.min_success_fraction or outcome.succeeded == 0
    report_path = refused_name(context.paths["report"]) if too_few else context.paths["report"]
    _report(context, outcome, report_path, time.monotonic() - started)
    if outcome.lost:
        context.run.log_file(work.log)
    if too_few:
        work.forget_shards(settings.min_success_fraction)
        raise PipelineError(f"{_too_few(outcome, settings)} All counts: {report_path}")
    work.publish()


def _report(context: StepContext, outcome: Outcome, path: Path, seconds: float) -> None:
    write_json(path, outcome.report() | {"seconds": seconds})
    causes = outcome.causes()
    scores = {"succeeded": outcome.succeeded, "success_fraction": outcome.success_fraction, "bytes": outcome.bytes}
    context.run.log_metrics(scores | {f"failures.{cause}": count for cause, count in causes.items()})
    context.run.log_file(path)
    context.log.info("%d of %d URLs gave a picture, in %.0f s", outcome.succeeded, outcome.urls, seconds)
    context.log.info("failures: %s", _listed(outcome) or "none")


def _listed(outcome: Outcome) -> str:
    ordered = sorted(outcome.causes().items(), key=lambda item: -item[1])
    return ", ".join(f"{cause} {count}" for cause, count in ordered if count)


def _too_few(outcome: Outcome, settings: DownloadImagesConfig) -> str:
    return (
        f"{outcome.succeeded} of {outcome.urls} URLs gave a picture ({outcome.success_fraction:.1%}); "
        f"download_images.min_success_fraction = {settings.min_success_fraction} asks for more. "
        f"Causes: {_listed(outcome)}. Check the network and the URL list; raise download_images.timeout_seconds or "
        "retries against slow servers; or lower min_success_fraction to go on with what there is. "
        "What was fetched well is kept for the next run."
    )


STEP = Step(
    name="download_images",
    summary="Downloads the pictures of a URL list with img2dataset and counts what failed by cause.",
    sections=("download_images",),
    inputs={"source": "optional: the URL list or the bundled parquet, in place of the path in the settings"},
    outputs={
        "images": "img2dataset's folder: NNNNN/<key>.<format>, .txt, .json (or these in NNNNN.tar) and NNNNN.parquet",
        "report": "JSON: URLs, successes, failures by cause, bytes, seconds",
    },
    run=run,
)

if __name__ == "__main__":
    sys.exit(STEP.main())
