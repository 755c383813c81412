"""The step over real HTTP on loopback, with real img2dataset: a run that falls short, then one that goes on from it."""

from __future__ import annotations

import io
import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline_steps.data.failures import CAUSES, Outcome
from pipeline_steps.data.file_server import FAULTS, ServedFile, serving
from pipeline_steps.data.pair_source import ShardPairs, downloaded_pairs
from pipeline_steps.data.tar_shards import Sample, read_shard
from pipeline_steps.download_images import STEP
from tests.unit.data.made_data import picture_bytes, read_files, section
from tests.unit.data.test_bounded_http import strangers
from tests.unit.step_runs import runs_of

pytestmark = pytest.mark.usefixtures("warm")

SHARD, SMALL = 32, 12
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
        private_addresses=True, timeout_seconds=2, retries=1, samples_per_shard=SHARD, min_image_size=8,
        output_format=request.param,
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
        patch.setenv("PIPELINE_RESULTS_DIR", str(folder))
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
        "too_large": 2, "not_allowed": 0, "other": {"not an http(s) URL, so not asked for": 1},
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
    runs = runs_of("download_images", "standalone", seen.images.parent)
    assert [run.status for run in runs] == ["FAILED", "FINISHED"]
    assert runs[0].metrics["failures.truncated"] == 2
    assert runs[1].metrics["succeeded"] == 64
    assert runs[1].tags["input.source.sha256"]
    assert runs[0].files == ["refused_report.json"]


def test_nothing_listens_after_the_runs(seen: Seen) -> None:
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{seen.base}/0", timeout=1)


class Busy(list[ServedFile]):
    """Files of a server that was busy when it was first asked for some of them."""

    def __init__(self, files: list[ServedFile], late: range, refusals: int) -> None:
        super().__init__(files)
        self.refusals = dict.fromkeys(late, refusals)

    def __getitem__(self, number: Any) -> Any:
        file = super().__getitem__(number)
        if isinstance(number, int) and self.refusals.get(number, 0) > 0:
            self.refusals[number] -= 1
            return ServedFile(file.body, "server_error")
        return file


@pytest.mark.parametrize("form", ["files", "webdataset"])
def test_what_failed_in_passing_is_asked_for_again_in_parts_that_come_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))
    files = Busy(SOUND, range(10, 14), refusals=2)  # img2dataset tries twice in a row
    files[SHARD] = ServedFile(b"", "not_found")
    for number in range(SHARD + 1, SHARD + 4):
        files[number] = ServedFile(files[number].body, "server_error")
    settings = section(
        "download_images", url_list=str(tmp_path / "urls.tsv"), min_success_fraction=0.9, retries=1,
        private_addresses=True, samples_per_shard=SHARD // 2, output_format=form, jobs=2, retry_passes=1,
    )  # fmt: skip
    with serving(files, slow_seconds=6, max_image_pixels=1_000_000) as base:
        lines = [f"{base}/{number}\tcaption {number}" for number in range(len(files))]
        (tmp_path / "urls.tsv").write_text("\n".join(["url\tcaption", *lines]) + "\n")
        for part in ("1-of-2", "2-of-2"):
            paths = ["--images", f"{tmp_path}/{part}/images", "--report", f"{tmp_path}/{part}/report.json"]
            assert STEP.main(["--settings", json.dumps(settings), "--part", part, *paths]) == 0
    folders = [tmp_path / part for part in ("1-of-2", "2-of-2")]
    together = ["--parts", *(f"{folder}/images" for folder in folders)]
    together += ["--part-reports", *(f"{folder}/report.json" for folder in folders)]
    images, report = tmp_path / "images", tmp_path / "report.json"
    arguments = ["--settings", json.dumps(settings), *together, "--images", str(images), "--report", str(report)]
    assert STEP.main(arguments) == 0
    found = json.loads(report.read_text())
    assert (found["urls"], found["succeeded"], found["recovered"], found["lost"]) == (64, 60, 4, 0)
    assert (found["failures"]["not_found"], found["failures"]["server_error"]) == (1, 3)
    expected = {f"caption {number}": SOUND[number].body for number in range(64) if not SHARD <= number < SHARD + 4}
    assert _pictures(images) == expected


def test_pictures_are_made_smaller_where_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """img2dataset resizes with a library that its processes load for this alone."""
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))
    urls = tmp_path / "urls.tsv"
    settings = section(
        "download_images", url_list=str(urls), private_addresses=True, resize_mode="keep_ratio", image_size=SMALL
    )
    paths = ["--images", f"{tmp_path}/images", "--report", f"{tmp_path}/report.json"]
    with serving(SOUND[:2], slow_seconds=6, max_image_pixels=1_000_000) as base:
        urls.write_text(f"url\tcaption\n{base}/0\tone\n{base}/1\tother\n")
        assert STEP.main(["--settings", json.dumps(settings), *paths]) == 0
    found = {caption: Image.open(io.BytesIO(body)).size for caption, body in _pictures(tmp_path / "images").items()}
    assert {caption: min(size) for caption, size in found.items()} == {"one": SMALL, "other": SMALL}
    assert min(Image.open(io.BytesIO(SOUND[0].body)).size) > SMALL


def _pictures(images: Path) -> dict[str, bytes]:
    """Picture by caption."""
    source = downloaded_pairs(images)
    if isinstance(source, ShardPairs):
        samples = [
            (images / shard, one) for shard in source.shards
            for one in read_shard(images / shard, source.caption_field, 1_000_000)[0]
        ]  # fmt: skip
        return {str(one.caption): _bytes_of(shard, one) for shard, one in samples}
    return {caption: (images / path).read_bytes() for path, caption in read_files(source)}


def test_parts_that_fall_short_together_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))
    outcome = Outcome(100, 90, 0, dict.fromkeys(CAUSES, 0) | {"timed_out": 10}, {}, 0, 1)
    poor = Outcome(100, 20, 0, dict.fromkeys(CAUSES, 0) | {"timed_out": 80}, {}, 0, 1)
    for number, (name, one) in enumerate((("good", outcome), ("poor", poor)), 1):
        (tmp_path / name / "images").mkdir(parents=True)
        (tmp_path / name / "report.json").write_text(
            json.dumps(one.report() | {"seconds": 1.0, "part": [number, 2], "source_sha256": "0" * 64})
        )
    arguments = [
        "--settings", json.dumps(section("download_images", min_success_fraction=0.8, jobs=2)),
        "--parts", f"{tmp_path}/good/images", f"{tmp_path}/poor/images",
        "--part-reports", f"{tmp_path}/good/report.json", f"{tmp_path}/poor/report.json",
        "--images", f"{tmp_path}/images", "--report", f"{tmp_path}/report.json",
    ]  # fmt: skip
    assert STEP.main(arguments) == 1
    told = capfd.readouterr().err
    assert "110 of 200 URLs" in told
    assert f"The poor parts are {tmp_path}/poor: remove" in told
    assert json.loads((tmp_path / "refused_report.json").read_text())["failures"]["timed_out"] == 90


@pytest.mark.parametrize("private", [True, False])
def test_what_strangers_send_has_a_size_a_deadline_and_a_cause(
    private: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))
    names = ["picture", "é", "endless", "drip", "drip_headers", "to_ftp", "scans", "robots"]
    settings = section(
        "download_images", url_list=str(tmp_path / "urls.tsv"), private_addresses=private, min_success_fraction=0.1,
        max_image_pixels=10_000, timeout_seconds=1, retries=0, retry_passes=0, threads=8, resize_mode="no",
    )  # fmt: skip
    with strangers() as base:
        lines = [f"{base}/{name}\t{name}" for name in names]
        (tmp_path / "urls.tsv").write_text("\n".join(["url\tcaption", *lines]) + "\n", encoding="utf-8")
        started = time.monotonic()
        code = STEP.main(
            [
                "--settings",
                json.dumps(settings),
                "--images",
                f"{tmp_path}/images",
                "--report",
                f"{tmp_path}/report.json",
            ]
        )
    assert time.monotonic() - started < 60
    assert code == (0 if private else 1)
    report = json.loads((tmp_path / REPORTS[private]).read_text())
    found = {cause: count for cause, count in report["failures"].items() if count}
    if private:
        assert report["succeeded"] == 2
        assert found == {"too_large": 2, "timed_out": 2, "not_allowed": 2}
    else:
        assert found == {"not_allowed": len(names)}
