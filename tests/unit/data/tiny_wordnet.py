"""A WordNet of a few synsets, written in the format of its database files (wndb(5WN))."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

LICENCE = "  1 A licence stands in the first lines, which begin with spaces.  \n  2 Offsets count it.  \n"
SYNSETS = {
    "noun": [["dog", "domestic_dog", "Canis_familiaris"], ["dog", "hot-dog"], ["mouse", "computer_mouse"], ["'hood"]],
    "verb": [["run", "sprint"], ["dog", "chase"]],
    "adj": [["big(a)", "large"], ["blue", "sad"]],
    "adv": [["fast"]],
}
EXCEPTIONS = {"noun": "mice mouse\n"}


def write_tiny_wordnet(folder: Path, line_end: str = "\n") -> Path:
    """Write the files, with UNIX line ends or with DOS ones (whose offsets still count the former)."""
    folder.mkdir(parents=True)
    for part, synsets in SYNSETS.items():
        data, senses = LICENCE, defaultdict[str, list[int]](list)
        for words in synsets:
            for word in words:
                senses[word.partition("(")[0].lower()].append(len(data))
            fields = " ".join(f"{word} 0" for word in words)
            data += (
                f"{len(data):08d} 05 {part[0]} {len(words):02x} {fields} 001 @ 00000000 n 0000 | a gloss, words 0  \n"
            )
        index = LICENCE
        for word, offsets in sorted(senses.items()):
            places = " ".join(f"{offset:08d}" for offset in offsets)
            index += f"{word} {part[0]} {len(offsets)} 1 @ {len(offsets)} 0 {places}  \n"
        (folder / f"data.{part}").write_bytes(data.replace("\n", line_end).encode())
        (folder / f"index.{part}").write_bytes(index.replace("\n", line_end).encode())
        (folder / f"{part}.exc").write_bytes(EXCEPTIONS.get(part, "").replace("\n", line_end).encode())
    return folder
