from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline_steps import build_manifest
from pipeline_steps.check_overlap import STEP
from pipeline_steps.core.config import load_section
from pipeline_steps.core.schema import DatasetRow
from pipeline_steps.evaluation.datasets.prepare import prepare
from tests.unit.data.made_data import section
from tests.unit.step_runs import runs_of

SETTINGS = json.dumps({"experiment": "test", "check_overlap": {"max_distance_bits": 3}})


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))


def _picture(number: int) -> Image.Image:
    """A picture like no other: a gradient that is turned, shifted and cut by its number."""
    shade = Image.radial_gradient("L").transform((96, 96), Image.Transform.AFFINE, (1 + number, 1, 9 * number, 2, 1, 7))
    return Image.merge("RGB", (shade, shade.rotate(31 * number), shade.rotate(77 * number)))


def _manifest(folder: Path) -> list[dict[str, Any]]:
    """The rows of a manifest of pictures 0 to 19, which may be held out, and a white one; in folder/pairs.parquet."""
    (folder / "train").mkdir()
    lines = ["image_path,text_content"]
    for number in range(20):
        _picture(number).save(folder / "train" / f"{number}.png")
        lines.append(f"{number}.png,picture {number}")
    Image.new("RGB", (40, 40), "white").save(folder / "train" / "white.png")
    (folder / "train" / "pairs.csv").write_text("\n".join([*lines, "white.png,white"]))
    outputs = [
        f"--{name}={folder}/{file}"
        for name, file in (("pairs", "pairs.parquet"), ("pairs-csv", "pairs_out.csv"), ("report", "manifest.json"))
    ]
    settings = json.dumps(section("build_manifest", validation_fraction=0.4, noise={"fraction": 0.0, "seed": 0}))
    assert build_manifest.STEP.main([f"--csv={folder}/train/pairs.csv", *outputs, "--settings", settings]) == 0
    return pq.read_table(folder / "pairs.parquet").to_pylist()


def _prepared(folder: Path, same: str, copied: str, held_out: str) -> list[Path]:
    """A set with one training picture as it is, one as a smaller JPEG, one held out, one new, one white; and a hole."""
    root = folder / "root"
    (root / "made").mkdir(parents=True)
    shutil.copy(folder / "train" / same, root / "made" / "same.png")
    shutil.copy(folder / "train" / held_out, root / "made" / "held_out.png")
    with Image.open(folder / "train" / copied) as picture:
        picture.resize((70, 70)).save(root / "made" / "copy.jpg", quality=85)
    _picture(23).save(root / "made" / "new.png")
    Image.new("RGB", (50, 50), "white").save(root / "made" / "white.png")
    names = ["new.png", "copy.jpg", "same.png", "white.png", "held_out.png"]
    (root / "made" / "test.csv").write_text("".join(["image,caption\n", *(f"{name},{name}\n" for name in names)]))
    places = [{"kind": "captions_csv", "path": "{root}/made/test.csv", "splits": {"test": "test"}}]
    row = {"title": "Made", "tasks": ["retrieval"], "metric": "recall", "n": {"test": 5}, "sources": places}
    for name in ("made", "lost"):
        made = load_section({name: row}, name, DatasetRow)
        prepare(name, made, root if name == "made" else folder / "nowhere", folder / name, processes=1)
    return [folder / "made", folder / "lost"]


def test_same_pictures_and_copies_are_found_new_held_out_and_white_ones_are_not(tmp_path: Path) -> None:
    rows = _manifest(tmp_path)
    training = [row for row in rows if row["split"] == "train"]
    same, copied = [row for row in training if row["image_path"] != "white.png"][:2]
    held_out = next(row for row in rows if row["split"] == "validation" and row["image_path"] != "white.png")
    sets = _prepared(tmp_path, same["image_path"], copied["image_path"], held_out["image_path"])
    outputs = ["--overlaps", str(tmp_path / "out" / "overlaps.parquet"), "--report", str(tmp_path / "out" / "r.json")]
    pairs = str(tmp_path / "pairs.parquet")
    assert STEP.main(["--pairs", pairs, "--prepared", *map(str, sets), *outputs, "--settings", SETTINGS]) == 0
    found = pq.read_table(tmp_path / "out" / "overlaps.parquet").to_pylist()
    assert [(row["row"], row["kind"], row["train_id"]) for row in found] == [
        (1, "near", copied["id"]), (2, "exact", same["id"]),
    ]  # fmt: skip
    report = json.loads((tmp_path / "out" / "r.json").read_text())
    assert report["made"] == {
        "n": 5, "exact": 1, "near": 1, "degenerate": 1, "max_distance_bits": 3, "training_pairs": len(training),
        "training_degenerate": sum(row["image_path"] == "white.png" for row in training),
    }  # fmt: skip
    assert list(report["lost"]) == ["hole"]
    (run,) = runs_of("check_overlap")
    assert run.status == "FINISHED"
    assert run.metrics["made/near"] == 1
    assert set(run.files) == {"r.json"}
    written = sorted(path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith("."))
    assert written == ["overlaps.parquet", "r.json"]


def test_a_folder_that_is_no_prepared_set_is_an_error_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _manifest(tmp_path)
    paths = {"pairs": "pairs.parquet", "prepared": "train", "overlaps": "o", "report": "r"}
    arguments = [part for name, path in paths.items() for part in (f"--{name}", str(tmp_path / path))]
    arguments += ["--settings", SETTINGS]
    assert STEP.main(arguments) == 1
    assert "train/dataset.json is missing. Run the stage prepare_dataset again" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
