"""`check_cluster` on a real Slurm: what fits, what does not, and that everything that fails is told at once."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.workflow.cluster_project import CONFIGFILE, adapt_profile
from tests.workflow.slurm_cluster import Cluster, require_slurm, slurm_cluster
from tests.workflow.snakemake_runs import small_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_project(tmp_path_factory.mktemp("check") / "project")


def _check(project: Path, cluster: Cluster, *arguments: str) -> tuple[int, str]:
    command = ["python", "-m", "pipeline_steps.check_cluster", "--configfile", CONFIGFILE, *arguments]
    ran = subprocess.run(
        command, cwd=project, env=cluster.environment, text=True, timeout=300, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return ran.returncode, ran.stdout


def test_a_real_job_finds_everything_but_a_gpu_which_this_cluster_only_declares(
    project: Path, cluster: Cluster
) -> None:
    adapt_profile(project, nodes=2, cpus_per_gpu=2)
    code, told = _check(project, cluster)
    assert re.search(
        r"^ok +a job on cpu: on \S+: Python 3\.\d+\.\d+, torch \S+, the same files as here$", told, re.M
    ), told
    assert re.search(r"^ok +a job on gpu: ", told, re.M), told
    assert "FAILED the GPU on gpu: Slurm gave CUDA_VISIBLE_DEVICES=0, and torch sees none" in told
    assert "1 of " in told.splitlines()[-1]
    assert code == 1
    for stage in ("train_reference", "learn_prompt", "unlearn", "train_baseline", "extract_features", "make_tables"):
        assert re.search(rf"^ok +{stage} fits: --partition=", told, re.M), told
    assert re.search(r"^ok +train_reference fits: .*--nodes=2 --cpus-per-task=2 .*--gres=gpu:1", told, re.M), told
    trainings = re.findall(r"^ok +(?:train_reference|learn_prompt|unlearn|train_baseline) fits: (.*)$", told, re.M)
    assert len(trainings) == 4
    assert len({re.sub(r"--mem=\S+", "", asked) for asked in trainings}) == 1, trainings
    cluster.wait(lambda: not cluster.jobs("RUNNING", "PENDING", "COMPLETING"), "an empty queue")
    assert not list((project / "results").glob(".check_cluster*"))


def test_without_a_gpu_asked_for_all_is_well(project: Path, cluster: Cluster) -> None:
    adapt_profile(project, cpus_per_gpu=2, mem_mb=4000)
    profile = project / "slurm/config.yaml"
    text = re.sub(r"gres: \S+.*", "", profile.read_text())
    profile.write_text(text.replace("  extract_features_job:\n", "  extract_features_job:\n    gpu: 0\n"))
    code, told = _check(project, cluster)
    assert code == 0, told
    assert re.search(r"^ok +a job on gpu: .*, the same files as here$", told, re.M), told
    assert told.splitlines()[-1] == "This cluster can run it."


def test_a_busy_partition_and_accounts_that_cannot_be_looked_up_fail_nothing(project: Path, cluster: Cluster) -> None:
    adapt_profile(project, cpus_per_gpu=2, mem_mb=4000)
    conf, command = cluster.folder / "away.conf", cluster.folder / "bin/sacctmgr"
    away = "accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\nAccountingStoragePort=9"
    conf.write_text((cluster.folder / "slurm.conf").read_text().replace("accounting_storage/none", away))
    before = command.read_text()
    command.write_text(before.replace("slurm.conf", "away.conf"))
    busy = cluster.ask("sbatch", "--parsable", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 300")
    cluster.wait(lambda: busy in cluster.jobs("RUNNING"), "a busy cluster")
    code, told = _check(project, cluster, "--wait", "3")
    cluster.ask("scancel", busy)
    command.write_text(before)
    assert code == 0, told
    assert re.search(r"^note +a job on cpu: was PENDING after 3 s: not checked$", told, re.M), told
    assert re.search(r"^note +account: sacctmgr does not say which are yours: ", told, re.M), told
    cluster.wait(lambda: not cluster.jobs("RUNNING", "PENDING", "COMPLETING"), "an empty queue")


def test_memory_the_sum_of_a_group_and_further_options_of_the_profile_have_to_fit(
    project: Path, cluster: Cluster
) -> None:
    adapt_profile(project, cpus_per_gpu=2, evaluation=20, mem_mb=4000)
    profile = project / "slurm/config.yaml"
    text = profile.read_text().replace("mem_mb: 8000 * attempt", "mem_mb: 80000 * attempt")
    profile.write_text(re.sub(r"(extract_features_job:\n.*)", r"\1\n    slurm_extra: \"'--constraint=a100'\"", text))
    code, told = _check(project, cluster, "--wait", "0")
    assert code == 1
    assert re.search(r"FAILED eval_zeroshot fits: no: .*--cpus-per-task=20 --mem=80000", told), told
    assert re.search(r"FAILED build_manifest fits: no: .*not available.*--mem=80000", told), told
    assert re.search(r"FAILED extract_features fits: no: .*--constraint=a100", told), told
    assert re.search(r"^ok +train_reference fits: .* --signal=TERM@120$", told, re.M), told
    assert re.search(r"^ok +squeue: keeps finished jobs for 3600 s$", told, re.M), told


def test_every_failure_is_told_at_once_with_its_remedy(project: Path, cluster: Cluster) -> None:
    adapt_profile(
        project, cpu_partition="nope", gpus=3, training_hours=100, account="mine", cpus_per_gpu=2, mem_mb=4000
    )
    code, told = _check(project, cluster)
    assert code == 1
    assert "FAILED partition nope: does not exist" in told
    assert "set it to one of cpu, gpu, urgent in the profile's first block" in told
    assert "FAILED partition gpu: jobs ask for 6000 minutes, and it allows 2880" in told
    assert "lower training_hours or hours in the profile to at most 48" in told
    assert "FAILED account: mine is asked for, and Slurm keeps no accounts here" in told
    assert re.search(r"FAILED train_reference fits: no: .*not available", told), told
    assert "the partition has 2 nodes of 16 CPUs, 64000 MiB, gpu:2" in told
    assert "none was submitted" in told
    assert cluster.jobs("RUNNING", "PENDING") == {}


def test_a_controller_that_does_not_answer_is_the_only_thing_told_of_slurm(project: Path, tmp_path: Path) -> None:
    adapt_profile(project, cpus_per_gpu=2, mem_mb=4000)
    require_slurm()
    with slurm_cluster(tmp_path / "cluster") as cluster:  # one that no other test needs any more
        cluster.daemons["slurmctld"].kill()
        code, told = _check(project, cluster)
    assert code == 1
    assert "FAILED Slurm: " in told
    assert "the controller does not answer" in told
    assert " fits" not in told
