from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.reporting.overview import forget_text, holes_text, overview, summary_text, time_text

HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def _benchmark(folder: Path, name: str, seconds: str, memory: str) -> None:
    path = folder / f"{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{HEADER}{seconds}\t0:00:10\t{memory}\t1\t1\t1\t1\t1\t1\t1\n")


def test_times_stand_in_pipeline_order_with_total_and_peak(tmp_path: Path) -> None:
    _benchmark(tmp_path, "unlearn/ncu/seed0", "100.6", "1500.25")
    _benchmark(tmp_path, "download_images", "20.2", "300.0")
    _benchmark(tmp_path, "train_baseline/continued/seed0", "60.0", "1200.0")
    _benchmark(tmp_path, "train_baseline/gradient_ascent/seed0", "61.0", "1300.0")
    _benchmark(tmp_path, "eval_probe/ncu/seed0", "0.2", "NA")
    lines = [line.split("  ") for line in time_text(tmp_path).splitlines()[2:]]
    rows = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert rows == [
        ["download_images", "1", "20 s", "300 MiB"],
        ["unlearn", "1", "1 min 41 s", "1,500 MiB"],
        ["train_baseline", "2", "2 min 01 s", "1,300 MiB"],
        ["eval_probe", "1", "0 s"],
        ["all, one after the other", "5", "4 min 02 s", "1,500 MiB"],
    ]


def test_without_benchmarks_there_is_no_table_of_times(tmp_path: Path) -> None:
    assert time_text(tmp_path / "nowhere") == ""


def test_the_forget_set_is_set_against_the_base_rate(tmp_path: Path) -> None:
    path = tmp_path / "forget_set.csv"
    rows = ["stage,method,name,value", *(f"unlearn,ncu,precision,{value}" for value in (0.5, 0.7))]
    path.write_text("\n".join([*rows, "unlearn,ncu,recall,0.15", "unlearn,ncu,base_rate,0.4", "unlearn,ncu,auroc,0.6"]))
    assert forget_text(path) == (
        "unlearn, NCU: 60.0% of the pairs picked were shuffled (a random pick: 40.0%); "
        "15.0% of all shuffled pairs were picked; AUROC 0.600"
    )
    assert forget_text(tmp_path / "nowhere.csv") == ""


def test_a_column_that_needs_a_missing_set_has_dashes_and_the_number_of_sets() -> None:
    reference = {
        "method": "reference", "title": "CLIP", "zero_shot_top1/sets": "16", "zero_shot_top1/needs": "cars",
        "zero_shot_top1@small/mean": "0.25", "zero_shot_top1@small/above_chance": "True",
        "zero_shot_top1@small/sets": "3",
    }  # fmt: skip
    chance = {"method": "chance", "title": "Chance", "zero_shot_top1/sets": "", "zero_shot_top1@small/mean": "0.1"}
    lines = summary_text([reference, chance]).splitlines()
    assert "(16 sets)" in lines[2]
    assert "(small, 3 sets)" in lines[2]
    assert next(line for line in lines if line.startswith("CLIP")).split() == ["CLIP", "—", "25.0"]
    assert next(line for line in lines if line.startswith("Chance")).split() == ["Chance", "—", "10.0"]


def test_missing_sets_have_a_line_each_and_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "holes.csv"
    path.write_text("dataset,hole\ncars,the link is dead\nsun397,not here\n")
    lines = holes_text(path).splitlines()
    assert lines[:2] == ["cars: the link is dead", "sun397: not here"]
    assert "make_tables.averages" in " ".join(lines[2:])
    assert holes_text(tmp_path / "nowhere.csv") == ""


def test_without_tables_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"summary\.csv does not exist; make it with `snakemake make_tables`"):
        overview(tmp_path, "store")


def test_the_overview_loads_neither_torch_nor_mlflow_nor_pandas() -> None:
    code = (
        "import sys; import pipeline_steps.show_summary; "
        "print([name for name in ('torch', 'mlflow', 'pandas', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
