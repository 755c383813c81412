"""A dry run on a cluster ends with a bill, also where Slurm is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflow.snakemake_runs import snakemake, workspace


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = workspace(tmp_path_factory.mktemp("bill") / "project")
    urls = folder / "data/cc3m/Train_GCC-training.tsv"
    urls.parent.mkdir(parents=True)
    with urls.open("w") as stream:
        stream.writelines(f"a caption\thttp://example.org/{number}.jpg\n" for number in range(100_000))
    (folder / "data/laclip").mkdir()
    (folder / "data/laclip/cc3m_clip.pt").touch()
    return folder


def _bill(told: str) -> dict[str, list[str]]:
    lines = told[told.index("What this run would cost") :].splitlines()
    assert lines[-1].startswith("checkpoint while it runs")  # nothing comes after it
    return {line.split()[0]: line.split()[1:] for line in lines[4 : lines.index("", 4)]}


def test_the_paper_run_has_a_price(folder: Path) -> None:
    ran = snakemake(folder, "--profile", "slurm", "-n", configfiles=("config/paper/cc3m_vitb16.yaml",))
    assert ran.returncode == 0, ran.stdout[-3000:]
    found = _bill(ran.stdout)
    assert found["download_images"][0] == "9"  # eight parts and what brings them together
    assert float(found["download_images"][3]) == pytest.approx(100_000 * (256**2 + 3 * 4096) / 1e9, rel=0.02)
    assert found["unlearn"][0] == "12"
    assert float(found["learn_prompt"][2]) == 24 * int(found["learn_prompt"][0])  # a GPU for a day each
    counted = sum(float(found[stage][1]) for stage in ("learn_prompt", "unlearn", "train_baseline", "extract_features"))
    assert float(found["all"][1]) == pytest.approx(counted, rel=0.05)
    assert 5 < counted < 12  # of 100,000 of the 3.3 million pairs, and the features of all sets
    assert found["eval_probe"][1] == "-"


def test_classifiers_have_a_row_whose_cost_nobody_counted(folder: Path) -> None:
    ran = snakemake(folder, "--profile", "slurm", "-n", configfiles=("config/studies/clipcleaner_cifar10.yaml",))
    assert ran.returncode == 0, ran.stdout[-3000:]
    found = _bill(ran.stdout)
    assert found["train_classifier"][:3] == ["6", "?", "144"]
    assert found["make_label_tables"] == ["1", "-", "-", "-"]
    assert found["all"][1] == "?"


def test_a_study_has_the_jobs_of_all_its_experiments(folder: Path) -> None:
    ran = snakemake(folder, "--profile", "slurm", "-n", configfiles=("config/studies/npc_openclipart.yaml",))
    found = _bill(ran.stdout)
    assert (found["download_images"][0], found["train_npc"][0], found["compare_experiments"][0]) == ("1", "4", "1")
    assert found["train_npc"][2] == "96.0"
    assert found["train_npc"][1] == "<0.01"  # counted, and next to nothing


def test_only_what_would_run_is_on_it(folder: Path) -> None:
    ran = snakemake(folder, "build_manifest", "--profile", "slurm", "-n", configfiles=("config/smoke.yaml",))
    assert list(_bill(ran.stdout)) == ["download_images", "build_manifest", "all"]


def test_on_one_machine_there_is_none(folder: Path) -> None:
    ran = snakemake(folder, "-n", configfiles=("config/smoke.yaml",))
    assert "What this run would cost" not in ran.stdout
