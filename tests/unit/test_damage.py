"""Damaged files of every form end in the project's own error, or are read; what carries a checksum never as another."""

from __future__ import annotations

import pytest

from tests.support.damage import BROKEN, KINDS, outcomes


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_read_or_refused_in_words(name: str) -> None:
    counted, told = outcomes(name, tries=40, seed=1)
    assert counted.total() == 40
    assert not counted[BROKEN], "\n".join(told)
