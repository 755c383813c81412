"""Tables in plain text and Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate


def text_table(header: Sequence[str], body: Sequence[Sequence[str]], style: str) -> str:
    """An aligned table in one of tabulate's styles: first column left, the others right, cells as they are."""
    alignment = ("left", *("right" for _ in header[1:]))
    return str(tabulate(body, header, tablefmt=style, disable_numparse=True, colalign=alignment))
