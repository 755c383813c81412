"""Noisy correspondence on purpose: a seeded share of captions shuffled among their own pairs."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence


def shuffled_captions(ids: Sequence[str], captions: Sequence[str], *, fraction: float, seed: int) -> list[str]:
    """The captions (N,) after round(fraction * N) of them, chosen by seed, have changed places among themselves.

    Every chosen pair gets a caption with another text than its own, unless one text is more than half of what is
    chosen (or only one pair is): then as many as possible do. `fraction` is in [0, 1]; `ids` are unique. What is
    chosen and what it gets depends on seed and ids alone, by hashes, so another pair more or less moves few others.
    """
    ranked = sorted(range(len(ids)), key=lambda row: _rank(seed, "pair", ids[row]))
    chosen = ranked[: round(fraction * len(ids))]
    # Equal texts side by side, then a rotation by the size of the largest block, carries each caption out of its block.
    chosen.sort(key=lambda row: (_rank(seed, "text", captions[row]), _rank(seed, "place", ids[row])))
    shift = max(Counter(captions[row] for row in chosen).values(), default=0)
    after = list(captions)
    for place, row in enumerate(chosen):
        after[row] = captions[chosen[(place + shift) % len(chosen)]]
    return after


def _rank(seed: int, purpose: str, text: str) -> bytes:
    return hashlib.sha256(f"{purpose}\n{seed}\n{text}".encode()).digest()
