"""The official layout: labels.csv, and a classes.py that is read and never run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema.datasets import NcuSource
from pipeline_steps.evaluation.datasets.ncu import read_classes, read_ncu
from pipeline_steps.evaluation.datasets.source import AbsentError
from tests.unit.data.made_data import write_picture
from tests.unit.evaluation.datasets import made_sets

SOURCE = {"kind": "ncu", "folder": "{root}/Made/{split}", "splits": {"test": "validation", "train": "train"}}
CLASSES = """{
    "classes": ["tench", 'gold' "fish"],
    "superclasses": [["tench"], ["goldfish"]],
    "templates": [lambda s: f"a photo of a {s}.", lambda c : f"{c} and {c}: 100%", lambda s: f'the {s}']
}"""


def _make(root: Path, classes: str = CLASSES) -> Path:
    for split in ("validation", "train"):
        folder = root / "Made" / split
        write_picture(folder / "a.jpg", 1)
        write_picture(folder / "sub" / "b.png", 2)
        (folder / "labels.csv").write_text(",image,label\n0,sub/b.png,1\n1,a.jpg,0\n")
    (root / "Made" / "validation" / "classes.py").write_text(classes)
    return root / "Made"


def test_the_official_layout_is_read_in_place(tmp_path: Path) -> None:
    _make(tmp_path)
    row = made_sets.row(n={"test": 2, "train": 2}, sources=[SOURCE], templates="source")
    made = made_sets.prepared(tmp_path / "folder", row, tmp_path)
    assert made.classes == ("tench", "goldfish")
    assert made.templates == ("a photo of a {c}.", "{c} and {c}: 100%", "the {c}")
    assert made.splits["test"].labels.tolist() == [1, 0]
    assert made.splits["test"].split == "validation"
    assert made.splits["test"].table["image_path"].to_pylist() == ["sub/b.png", "a.jpg"]
    assert not (tmp_path / "folder" / "pictures.tar").exists()


def test_what_is_no_regular_file_is_a_hole_and_nobody_waits_for_it(tmp_path: Path) -> None:
    folder = _make(tmp_path)
    (folder / "validation" / "a.jpg").unlink()
    os.mkfifo(folder / "validation" / "a.jpg")
    made = made_sets.prepared(tmp_path / "folder", made_sets.row(n={"test": 2, "train": 2}, sources=[SOURCE]), tmp_path)
    assert "cannot be read (ValueError: not a regular file)" in str(made.hole)


def test_absolute_paths_lead_into_the_folders_that_the_row_names(tmp_path: Path) -> None:
    _make(tmp_path)
    elsewhere = write_picture(tmp_path / "disk" / "c.png", 3)
    (tmp_path / "Made" / "validation" / "labels.csv").write_text(f",image,label\n0,{elsewhere},1\n1,a.jpg,0\n")
    sizes = {"n": {"test": 2, "train": 2}}
    refused = made_sets.prepared(tmp_path / "a", made_sets.row(**sizes, sources=[SOURCE]), tmp_path)
    assert "the source's link_roots alone" in str(refused.hole)
    source = SOURCE | {"link_roots": ["{root}/disk"]}
    made = made_sets.prepared(tmp_path / "b", made_sets.row(**sizes, sources=[source]), tmp_path)
    assert made.hole is None
    assert made.splits["test"].picture(0).size == (24, 20)


def test_a_missing_train_split_is_named_and_a_missing_test_split_is_absent(tmp_path: Path) -> None:
    folder = _make(tmp_path)
    (folder / "validation" / "classes.py").rename(folder / "classes.py")
    (folder / "train" / "labels.csv").unlink()
    row = made_sets.row(n={"test": 2, "train": 2}, sources=[SOURCE])
    made = made_sets.prepared(tmp_path / "folder", row, tmp_path)
    assert made.classes == ("tench", "goldfish")
    assert made.splits.keys() == {"test"}
    assert made.missing == {"train": f"{folder}/train/labels.csv does not exist"}
    (folder / "validation" / "labels.csv").unlink()
    with pytest.raises(AbsentError, match=r"labels.csv does not exist"):
        read_ncu(NcuSource(**SOURCE), tmp_path)


@pytest.mark.parametrize(
    ("expression", "line"),
    [
        ('{"classes": [open("SPRUNG", "w")], "templates": []}', 1),
        ('{"classes": [],\n"templates": [lambda s: open("SPRUNG", "w")]}', 2),
        ('{"classes": [], "templates": [lambda s: f"{open(\'SPRUNG\', \'w\')} {s}"]}', 1),
        ('{"classes": [], "templates": [lambda s, t=open("SPRUNG", "w"): f"{s}"]}', 1),
        ('{"classes": [], "templates": [lambda *s: f"{s}"]}', 1),
        ('{"classes": [], "templates": [lambda s: f"{s!r}"]}', 1),
        ('{"classes": [], "templates": [lambda s: f"{s:>{s}}"]}', 1),
        ('{"classes": [], "templates": [lambda s: f"{s.__class__}"]}', 1),
        ('{"classes": [], "templates": [lambda s: f"{{c}} of {s}"]}', 1),
        ('{"classes": [], "templates": [lambda s: f"no name"]}', 1),
        ('{"classes": [], "templates": [lambda s: "plain"]}', 1),
        ('{"classes": [], "templates": ["plain"]}', 1),
        ('{"classes": [1], "templates": []}', 1),
        ('{"classes": [*["a"]], "templates": []}', 1),
        ('{"classes": (x for x in [1]), "templates": []}', 1),
        ('{"classes": [], "templates": [], **{}}', 1),
        ('{"classes": [], "classes": [], "templates": []}', 1),
        ('{"classes": [], "templates": [], "more": []}', 1),
        ('{"classes": [], "templates": [], "superclasses": [[print("SPRUNG")]]}', 1),
        ('__import__("os").system("touch SPRUNG")', 1),
    ],
)
def test_nothing_but_names_and_templates_is_taken_and_nothing_is_run(
    expression: str, line: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "classes.py"
    path.write_text(expression)
    with pytest.raises(
        PipelineError, match=f"classes.py, line {line}, column .* is neither a class name nor a template"
    ):
        read_classes(path)
    assert [found.name for found in tmp_path.iterdir()] == ["classes.py"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "text",
    [
        "import os",
        "x = 1",
        "{",
        "\0",
        "(" * 10_000,
        "-" * 100_000 + "1",
        '{"classes": ' + "[" * 5_000 + "]" * 5_000 + "}",
    ],
    ids=["statement", "assignment", "open", "null", "brackets", "signs", "nested"],
)
def test_what_is_no_expression_of_this_form_is_an_error_and_not_a_crash(text: str, tmp_path: Path) -> None:
    path = tmp_path / "classes.py"
    path.write_text(text)
    before = sys.getrecursionlimit()
    with pytest.raises(PipelineError, match=r"classes\.py"):
        read_classes(path)
    assert sys.getrecursionlimit() == before


@pytest.mark.parametrize("stray", ["../outside.jpg", "/etc/hostname", "link/outside.jpg", "sub/../../outside.jpg", ""])
def test_a_picture_outside_the_folder_is_refused(stray: str, tmp_path: Path) -> None:
    folder = _make(tmp_path) / "validation"
    write_picture(folder.parent / "outside.jpg", 3)
    (folder / "link").symlink_to(folder.parent)
    (folder / "labels.csv").write_text(f"image,label\na.jpg,0\n{stray},1\n")
    row = made_sets.row(n={"test": 2, "train": 2}, sources=[SOURCE])
    made = made_sets.prepared(tmp_path / "folder", row, tmp_path)
    assert made.hole is not None
    assert f"names 1 pictures outside {folder}, the first of them {stray!r}" in made.hole
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["dataset.json"]


@pytest.mark.parametrize("label", ["cat", "-1", "1.0", "", "9" * 20])
def test_a_label_that_is_no_number_is_named(label: str, tmp_path: Path) -> None:
    folder = _make(tmp_path) / "validation"
    (folder / "labels.csv").write_text(f"image,label\na.jpg,0\nsub/b.png,{label}\n")
    with pytest.raises(PipelineError, match=f"has the label '{label}'"):
        read_ncu(NcuSource(**SOURCE), tmp_path)
