"""A download scattered over jobs of a real Slurm: one is warned of its time limit, one killed, and nothing is lost."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workflow.cluster_project import CONFIGFILE, Driver, Held, adapt_profile, processes_of
from tests.workflow.slurm_cluster import Cluster
from tests.workflow.snakemake_runs import small_project

SCATTERED = "download_images: {jobs: 3}"
IMAGES = Path("results/smoke/download_images")
MANIFEST = Path("results/smoke/build_manifest/pairs.parquet")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = small_project(tmp_path_factory.mktemp("downloads") / "project")
    (folder / "scattered.yaml").write_text(SCATTERED)
    adapt_profile(folder)
    return folder


def test_parts_that_end_before_their_time_go_on_and_come_together(
    project: Path, cluster: Cluster, request: pytest.FixtureRequest
) -> None:
    driver = Driver(project, cluster, "build_manifest", configfiles=(CONFIGFILE, "scattered.yaml"))
    cluster.wait(lambda: _finished(project, 1), "a shard finished")
    held = Held(_job(cluster, 1), processes_of(project, "1-of-3")[-1])
    held.process.suspend()  # else it could end before Slurm looks at its time limit
    cluster.wait(lambda: _finished(project, 2), "a shard finished")
    killed = _job(cluster, 2)
    warned, before = held.job, {part: _finished(project, part) for part in (1, 2)}
    cluster.ask("scontrol", "update", f"JobId={warned}", "TimeLimit=2")  # the profile asks for SIGTERM 120 s before
    processes_of(project, "2-of-3")[-1].kill()
    cluster.wait(held.told_to_end, "warned", every=0.02)
    held.resume()
    cluster.wait(lambda: cluster.show(warned)["Restarts"] == "1", "requeued")
    cluster.ask("scontrol", "update", f"JobId={warned}", "TimeLimit=240")
    driver.ended()
    assert cluster.show(warned)["JobState"] == "COMPLETED"
    assert cluster.show(killed)["JobState"] == "FAILED"
    for part in (1, 2):
        told = (project / f"results/smoke/logs/download_images/parts/{part}-of-3.log").read_text()
        kept = re.search(r"; (\d+) shards are there", told)
        assert kept
        assert int(kept[1]) >= before[part]
    report = json.loads((project / IMAGES / "report.json").read_text())
    parts = [json.loads((project / IMAGES / f"parts/{part}-of-3/report.json").read_text()) for part in (1, 2, 3)]
    for count in ("urls", "succeeded", "recovered", "lost", "bytes"):
        assert report[count] == sum(part[count] for part in parts)
    assert report["lost"] == 0
    assert not list((project / IMAGES).rglob(".images.download"))
    finished: Path = request.getfixturevalue("finished")  # only now: until here nothing waits for it
    alone = json.loads((finished / IMAGES / "report.json").read_text())
    assert (report["urls"], report["failures"]) == (alone["urls"], alone["failures"])
    assert _pairs(project).equals(_pairs(finished))
    jobs = [job for job in cluster.jobs().values() if job["folder"] == str(project)]
    assert {job["partition"] for job in jobs} == {"cpu"}
    assert {job["comment"].split("_wildcards")[0] for job in jobs} == {
        "rule_download_images_job",
        "rule_download_images",
        "rule_build_manifest",
    }


def _finished(project: Path, part: int) -> int:
    """Shards that a part has finished."""
    return len(list((project / IMAGES / f"parts/{part}-of-3").glob(".images.download/*/shards/*_stats.json")))


def _pairs(project: Path) -> pa.Table:
    """The manifest with what lies at each path in place of the path.

    While the step stood still, so did the server in it: what timed out was asked for again, and lies elsewhere.
    """
    manifest = pq.read_table(project / MANIFEST)
    pictures = [(project / IMAGES / "images" / path).read_bytes() for path in manifest["image_path"].to_pylist()]
    return manifest.set_column(manifest.column_names.index("image_path"), "picture", [pictures])


def _job(cluster: Cluster, part: int) -> str:
    """The id of a part's job."""
    (job,) = [job for job, row in cluster.jobs("RUNNING").items() if f"{part}-of-3" in row["comment"]]
    return job
