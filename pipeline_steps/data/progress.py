"""The one form of the data steps' progress bars."""

from __future__ import annotations

import sys
from typing import Any

from tqdm.auto import tqdm


def progress_bar(total: int, title: str, unit: str) -> tqdm[Any]:
    """A bar on stderr: redrawn twice a second on a terminal, at most every five seconds in a log."""
    return tqdm(total=total, desc=title, unit=unit, mininterval=0.5 if sys.stderr.isatty() else 5.0)
