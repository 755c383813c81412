"""The step over real HTTP on loopback, with real img2dataset: a run that falls short, then one that goes on from it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipeline_steps.data.file_server import FAULTS, ServedFile, serving
from pipeline_steps.data.pair_source import ShardPairs, downloaded_pairs
from pipeline_steps.data.tar_shards import Sample, read_shard
from pipeline_steps.download_images import STEP
from tests.unit.data.made_data import picture_bytes, read_files, section

SHARD = 32
SOUND = [ServedFile(picture_bytes(number)) for number in range(2 * SHARD)]
FAULTY = {SHARD + 3 * place + copy: fault for place, fault in enumerate(FAULTS) for copy in (0, 1)}


REPORTS = ("refused_report.json", "report.json")


@dataclass
class Seen:
    """What each of the two runs left behind."""

    codes: list[int]
    reports: list[dict[str, Any]]
    images_there: list[bool]
    log: str
    images: Path
    base: str


@pytest.fixture(scope="module", params=["files", "webdataset"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp(request.param)
    files = [ServedFile(file.body, FAULTY.get(number)) for number, file in enumerate(SOUND)]
    urls = folder / "urls.tsv"
    settings = section(
        "download_images", url_list=str(urls), min_success_fraction=0.8, max_image_pixels=1_000_000, slow_seconds=6,
        timeout_seconds=2, retries=1, samples_per_shard=SHARD, min_image_size=8, output_format=request.param,
    )  # fmt: skip
    arguments = [
        "--settings",
        json.dumps(settings),
        "--images",
        f"{folder}/images",
        "--report",
        f"{folder}/report.json",
    ]
    seen = Seen([], [], [], "", folder / "images", "")
    with pytest.MonkeyPatch.context() as patch, serving(files, slow_seconds=6, max_image_pixels=1_000_000) as base:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        lines = [f'{base}/{number}\t"caption {number}' for number in range(len(files))]
        urls.write_text("\n".join(["url\tcaption", *lines, "file:///etc/passwd\tnot a web page"]) + "\n")
        for _ in range(2):
            seen.codes.append(STEP.main([*arguments, "--log-file", f"{folder}/log"]))
            seen.reports.append(json.loads((folder / REPORTS[len(seen.reports)]).read_text()))
            seen.images_there.append(seen.images.exists())
            seen.log = seen.log or (folder / "log").read_text()
            # Mend what failed, and break what did not: only URLs of the shard that fell short may be asked for again.
            files[SHARD:] = SOUND[SHARD:]
            files[:SHARD] = [ServedFile(b"", "server_error")] * SHARD
        seen.base = base
    return seen


def test_a_refused_run_reports_under_a_name_that_stays(seen: Seen) -> None:
    assert f"All counts: {seen.images.parent}/refused_report.json" in seen.log


def test_each_fault_is_counted_under_its_cause(seen: Seen) -> None:
    report = seen.reports[0]
    assert report["failures"] == {
        "not_found": 2, "server_error": 2, "timed_out": 2, "truncated": 2, "not_an_image": 2, "too_small": 2,
        "too_large": 2, "other": {"not an http(s) URL, so not asked for": 1},
    }  # fmt: skip
    assert (report["urls"], report["succeeded"], report["lost"]) == (65, 50, 0)
    assert report["success_fraction"] == 50 / 65
    assert 0 < report["seconds"] < 120


def test_too_few_successes_stop_the_step_with_numbers_causes_and_remedies(seen: Seen) -> None:
    assert seen.codes[0] == 1
    assert not seen.images_there[0]
    for words in ("50 of 65 URLs", "min_success_fraction = 0.8", "not_found 2", "timeout_seconds", "retries"):
        assert words in seen.log


def test_the_next_run_asks_again_for_the_poor_shard_alone_and_delivers_the_whole(seen: Seen) -> None:
    assert seen.codes[1] == 0
    assert seen.images_there == [False, True]
    assert seen.reports[1]["succeeded"] == 64
    assert [path.name for path in seen.images.parent.glob(".*.download")] == []


def test_the_folder_holds_the_pictures_and_captions_that_were_served(seen: Seen) -> None:
    source = downloaded_pairs(seen.images)
    bodies = [file.body for file in SOUND]
    if isinstance(source, ShardPairs):
        assert source.shards == ("00000.tar", "00001.tar")
        found = [read_shard(seen.images / shard, source.caption_field, 1_000_000) for shard in source.shards]
        assert [broken for _, broken in found] == [[], []]
        pairs = [(_bytes_of(seen.images / shard, one), one.caption) for shard, (samples, _) in zip(
            source.shards, found, strict=True) for one in samples]  # fmt: skip
        assert seen.reports[1]["bytes"] == sum((seen.images / shard).stat().st_size for shard in source.shards)
    else:
        pairs = [((seen.images / path).read_bytes(), caption) for path, caption in read_files(source)]
        assert seen.reports[1]["bytes"] == sum(map(len, bodies))
    assert pairs == [(body, f'"caption {number}') for number, body in enumerate(bodies)]


def _bytes_of(shard: Path, sample: Sample) -> bytes:
    return shard.read_bytes()[sample.offset : sample.offset + sample.size]


def test_the_runs_are_tracked_as_failed_and_finished(seen: Seen) -> None:
    client = MlflowClient(f"sqlite:///{seen.images.parent}/mlflow.db")
    experiment = client.get_experiment_by_name("standalone")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.stage = 'download_images'", order_by=["start_time"])
    assert [run.info.status for run in runs] == ["FAILED", "FINISHED"]
    assert runs[0].data.metrics["failures.truncated"] == 2
    assert runs[1].data.metrics["succeeded"] == 64
    assert runs[1].data.tags["input.source.sha256"]
    assert [file.path for file in client.list_artifacts(runs[0].info.run_id)] == ["refused_report.json"]


def test_nothing_listens_after_the_runs(seen: Seen) -> None:
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{seen.base}/0", timeout=1)
