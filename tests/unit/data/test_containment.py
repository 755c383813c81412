from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.containment import Containment
from tests.unit.data.made_data import write_picture


def _contained(root: Path, paths: list[str]) -> list[str | None]:
    check = Containment(root)
    found = check.inside(paths)
    check.refuse_strays()
    return found


def test_paths_below_the_root_become_relative_and_plain(tmp_path: Path) -> None:
    write_picture(tmp_path / "a" / "1.png", 1)
    (tmp_path / "a" / "link.png").symlink_to("1.png")
    paths = ["a/1.png", "./a/../a/1.png", str(tmp_path / "a" / "1.png"), "a/link.png", "a/not there.png"]
    assert _contained(tmp_path, paths) == ["a/1.png"] * 4 + ["a/not there.png"]
    assert _contained(tmp_path, ["b.png", "no folder/b.png", "a/1.png/below a file"]) == [
        "b.png",
        "no folder/b.png",
        "a/1.png/below a file",
    ]


def test_every_way_out_of_the_root_is_refused_and_its_row_named(tmp_path: Path) -> None:
    root = tmp_path / "root"
    outside = write_picture(tmp_path / "outside.png", 1)
    write_picture(root / "a.png", 1)
    (root / "link.png").symlink_to(outside)
    (root / "folder").symlink_to(tmp_path)
    bad = [
        "../outside.png", str(outside), "link.png", "folder/outside.png", "folder/root/link.png", "", ".", "..",
        "a.png/..", "folder/", "a\0.png", "/etc/passwd", "../root2/a",
    ]  # fmt: skip
    for path in bad:
        with pytest.raises(PipelineError, match=r"1 of 2 rows .* row 2: "):
            _contained(root, ["a.png", path])
    with pytest.raises(PipelineError, match=r"12 of 12 rows .*row 10: '/x9' and 2 more"):
        _contained(root, [f"/x{number}" for number in range(12)])


def test_links_and_paths_lead_into_the_folders_that_are_named(tmp_path: Path) -> None:
    root, disk, other = tmp_path / "root", tmp_path / "disk", tmp_path / "disk2"
    pictures = [write_picture(folder / "1.png", number) for number, folder in enumerate((root, disk, other))]
    (root / "linked").symlink_to(disk)
    (root / "one.png").symlink_to(pictures[1])
    (tmp_path / "way").symlink_to(root)
    check = Containment(tmp_path / "way", [disk])
    found = check.inside(["1.png", "linked/1.png", "one.png", str(pictures[1]), str(pictures[2]), "../disk2/1.png"])
    assert found == ["1.png", "../disk/1.png", "../disk/1.png", "../disk/1.png", None, None]
    for path in found[:4]:
        assert (tmp_path / "way" / str(path)).samefile(pictures[path != "1.png"])
    with pytest.raises(PipelineError, match=r"2 of 6 rows .*build_manifest.link_roots alone"):
        check.refuse_strays()


def test_rows_are_counted_over_all_parts(tmp_path: Path) -> None:
    check = Containment(tmp_path)
    assert check.inside(["a.png", "../b.png"]) == ["a.png", None]
    assert check.inside(["c.png", "/d.png"]) == ["c.png", None]
    with pytest.raises(PipelineError, match=r"2 of 4 rows .*row 2: '../b.png'; row 4: '/d.png'"):
        check.refuse_strays()


def test_any_path_is_judged_as_the_file_system_resolves_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for folder in ("a/b", "c"):
        (root / folder).mkdir(parents=True)
    write_picture(root / "a" / "p.png", 1)
    for link, target in (("a/up", ".."), ("c/out", "../.."), ("a/b/p.png", "../p.png"), ("c/q.png", "/etc/hostname")):
        (root / link).symlink_to(target)
    generator = random.Random(0)
    parts = ["a", "b", "c", "up", "out", "p.png", "q.png", "..", ".", "root", "new"]
    paths = ["/".join(generator.choices(parts, k=generator.randint(1, 5))) for _ in range(2000)]
    real_root = os.path.realpath(root)
    resolved = [os.path.realpath(f"{real_root}/{path}") for path in paths]
    expected = [real[len(real_root) + 1 :] if real.startswith(f"{real_root}/") else None for real in resolved]
    assert Containment(root).inside(paths) == expected
    assert None in expected
    assert len(set(expected)) > 20


def test_files_cost_no_look_at_the_disk_once_their_folder_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("a", "b"):
        write_picture(tmp_path / folder / "0.png", 0)
    looks: list[str] = []
    lstat = os.lstat
    check = Containment(tmp_path)
    monkeypatch.setattr(os, "lstat", lambda path, **more: looks.append(str(path)) or lstat(path, **more))
    found = check.inside([f"{folder}/{number}.png" for number in range(2000) for folder in ("a", "b")])
    assert len(found) == 4000
    assert 0 < len(looks) < 50
