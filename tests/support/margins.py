"""How much of its bound each comparison of numbers used: `python -m pytest -p tests.support.margins tests/unit`.

A bound that follows from the arithmetic is used as much on any processor; one that another's kernels would pass is seen
here before. Comparisons that are meant to fail are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

TESTS = Path(__file__).parents[1]
used: dict[str, float] = {}


def _note(difference: Any, bound: Any) -> None:
    """Keep the largest share that a line of a test used."""
    difference, bound = np.asarray(difference, dtype=np.float64), np.asarray(bound, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(difference == 0, 0, difference / bound)
    share = float(np.nanmax(shares, initial=0))
    frame = sys._getframe(2)
    while frame.f_back and (
        TESTS not in Path(frame.f_code.co_filename).parents or frame.f_code.co_filename == __file__
    ):
        frame = frame.f_back
    file = Path(frame.f_code.co_filename)
    place = f"{file.relative_to(TESTS) if TESTS in file.parents else file}:{frame.f_lineno}"
    if share <= 1:
        used[place] = max(used.get(place, 0), share)


def _assert_close(compare: Callable[..., None]) -> Callable[..., None]:
    def assert_close(actual: Any, expected: Any, **options: Any) -> None:
        compare(actual, expected, **options)
        if isinstance(actual, torch.Tensor) and actual.is_floating_point():
            kind = actual.dtype
            relative, absolute = torch.testing._comparison.default_tolerances(kind, kind)
            relative, absolute = options.get("rtol", relative), options.get("atol", absolute)
            exact = expected.detach().double().cpu().numpy()
            _note(abs(actual.detach().double().cpu().numpy() - exact), absolute + relative * abs(exact))

    return assert_close


def _assert_allclose(compare: Callable[..., None]) -> Callable[..., None]:
    def assert_allclose(actual: Any, desired: Any, rtol: float = 1e-7, atol: float = 0, **options: Any) -> None:
        compare(actual, desired, rtol=rtol, atol=atol, **options)
        exact = np.asarray(desired, dtype=np.float64)
        _note(abs(np.asarray(actual, dtype=np.float64) - exact), atol + rtol * abs(exact))

    return assert_allclose


def _approx(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def equals(approximate: Any, actual: Any) -> bool:
        if isinstance(actual, int | float) and np.isfinite(actual):
            _note(abs(actual - approximate.expected), approximate.tolerance)
        return compare(approximate, actual)

    return equals


def pytest_configure() -> None:
    """Wrap what tests compare by."""
    torch.testing.assert_close = _assert_close(torch.testing.assert_close)
    np.testing.assert_allclose = _assert_allclose(np.testing.assert_allclose)
    scalar: Any = type(pytest.approx(1.0))
    scalar.__eq__ = _approx(scalar.__eq__)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The comparisons that used most of their bounds."""
    terminalreporter.section("share of its bound that a comparison used, the largest first")
    for place, share in sorted(used.items(), key=lambda item: -item[1])[:30]:
        terminalreporter.write_line(f"{share:6.3f}  {place}")
