"""Easy data augmentation of captions (Wei and Zou 2019), as the official code perturbs the captions of negatives."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from pipeline_steps.data.wordnet import cleaned

Synonyms = Callable[[str], Sequence[str]]

SHARE = 0.1
_TRIES = 10
# Words that synonym replacement leaves alone.
STOP_WORDS = frozenset(
    """
    a about above after again against all am an and any are as at be because been before being below between both but
    by can did do does doing don down during each few for from further had has have having he her here hers herself
    him himself his how i if in into is it its itself just me more most my myself no nor not now of off on once only
    or other our ours ourselves out over own s same she should so some such t than that the their theirs them
    themselves then there these they this those through to too under until up very was we were what when where which
    while who whom why will with you your yours yourself yourselves
    """.split()  # noqa: SIM905 - a hundred quoted words read worse
)


def augment(caption: str, rng: random.Random, synonyms: Synonyms) -> str:
    """The caption in lower-case letters, changed by one of four operations drawn at random.

    Synonyms replace a tenth of the words (at least one), or a synonym of a word is inserted as often, or so many pairs
    of words are swapped, or every word is dropped with probability 0.1. A caption without a letter a to z has nothing
    to change and comes back as it is.
    """
    words = cleaned(caption).split()
    if not words:
        return caption
    operation = rng.choice((replace_synonyms, insert_synonyms, swap_words, delete_words))
    return " ".join(operation(words, rng, synonyms))


def replace_synonyms(words: list[str], rng: random.Random, synonyms: Synonyms) -> list[str]:
    """A tenth of the distinct words that are no stop words, each replaced everywhere by one of its synonyms."""
    candidates = sorted({word for word in words if word not in STOP_WORDS and synonyms(word)})
    chosen = rng.sample(candidates, min(_count(words), len(candidates)))
    instead = {word: rng.choice(synonyms(word)) for word in chosen}
    return [instead.get(word, word) for word in words]


def insert_synonyms(words: list[str], rng: random.Random, synonyms: Synonyms) -> list[str]:
    """A tenth as many synonyms of random words, at random places; a word without synonyms is drawn again."""
    changed = list(words)
    for _ in range(_count(words)):
        drawn = (synonyms(rng.choice(words)) for _ in range(_TRIES))
        found = next((names for names in drawn if names), None)
        if found:
            changed.insert(rng.randint(0, len(changed)), rng.choice(found))
    return changed


def swap_words(words: list[str], rng: random.Random, synonyms: Synonyms) -> list[str]:  # noqa: ARG001 - one signature
    """A tenth as many swaps of two random places."""
    changed = list(words)
    for _ in range(_count(words) if len(words) > 1 else 0):
        left, right = rng.sample(range(len(changed)), 2)
        changed[left], changed[right] = changed[right], changed[left]
    return changed


def delete_words(words: list[str], rng: random.Random, synonyms: Synonyms) -> list[str]:  # noqa: ARG001 - one signature
    """Every word dropped with probability 0.1; one random word stays where all would go."""
    kept = [word for word in words if rng.random() >= SHARE]
    return kept or [rng.choice(words)]


def _count(words: list[str]) -> int:
    return max(1, int(SHARE * len(words)))
