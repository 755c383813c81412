from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import only_writer, require_free_disk, sha256_of, whole_file, whole_folder, write_json


def test_a_file_appears_whole_or_keeps_its_old_content(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "value.json"
    write_json(path, {"b": 1, "a": "é"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "é", "b": 1}
    with pytest.raises(RuntimeError, match="interrupted"), whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError("interrupted")
    assert json.loads(path.read_text(encoding="utf-8"))["b"] == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["value.json"]


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    with whole_folder(path) as partial:
        (partial / "old").write_text("1")
    with pytest.raises(RuntimeError, match="interrupted"), whole_folder(path) as partial:
        (partial / "half").write_text("2")
        raise RuntimeError("interrupted")
    assert [entry.name for entry in path.iterdir()] == ["old"]
    with whole_folder(path) as partial:
        (partial / "new").write_text("3")
    assert [entry.name for entry in path.iterdir()] == ["new"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint"]


def test_a_full_file_system_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
from pathlib import Path
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import whole_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with whole_file(Path(sys.argv[1])) as partial:
        partial.write_bytes(b"x" * 100_000)
except PipelineError as error:
    print(error)
"""
    path = tmp_path / "large.bin"
    ran = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert "no room to write" in ran.stdout
    assert "Nothing half-written was left" in ran.stdout
    assert list(tmp_path.iterdir()) == []


def test_too_little_disk_is_said_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="no room on disk.*MiB free.*results_dir"):
        require_free_disk(tmp_path / "not" / "yet", 2**62)
    require_free_disk(tmp_path, 1)
    assert not (tmp_path / "not").exists()


def test_a_second_writer_is_refused_while_the_first_one_lives(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    script = f"""
from pathlib import Path
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import only_writer
try:
    with only_writer(Path({str(path)!r})):
        print("free")
except PipelineError as error:
    print(error)
"""
    command = [sys.executable, "-c", script]
    with only_writer(path):
        second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"another process is writing {path}" in second.stdout
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "free\n"


def test_hash_of_a_folder_sees_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a").write_text("1")
    first = sha256_of(tmp_path / "one")
    (tmp_path / "one" / "a").rename(tmp_path / "one" / "b")
    renamed = sha256_of(tmp_path / "one")
    (tmp_path / "one" / "b").write_text("2")
    changed = sha256_of(tmp_path / "one")
    assert len({first, renamed, changed}) == 3
    (tmp_path / "one" / ".snakemake_timestamp").touch()
    assert sha256_of(tmp_path / "one") == changed
    empty = tmp_path / "empty"
    empty.touch()
    assert sha256_of(empty) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path) -> None:
    (tmp_path / f".a.{'0' * 32}.partial").write_text("half")
    (tmp_path / f".b.{'1' * 32}.partial").mkdir()
    (tmp_path / f".other.{'0' * 32}.partial").write_text("another file's")
    with whole_file(tmp_path / "a") as partial:
        partial.write_text("whole")
    with whole_folder(tmp_path / "b") as partial:
        (partial / "c").write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".other.{'0' * 32}.partial", "a", "b"]
