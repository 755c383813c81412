"""How every figure looks: one style, colour-blind-safe colours, PNG and SVG with the data as CSV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from matplotlib import style
from matplotlib.figure import Figure

from pipeline_steps.core.methods import METHODS, REFERENCE

PNG_DPI = 150
# Okabe and Ito's palette; the reference is grey, the other methods keep their place in the table of methods.
_PALETTE = ("#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442")
_REFERENCE_COLOUR = "#7F7F7F"
_HATCHES = ("", "////", "....", "xxxx", "----")
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "figures",
    "svg.fonttype": "path",
}


def method_hatch(method: str) -> str:
    """What tells methods of the same colour apart: none for the first round of the palette."""
    return _HATCHES[_place(method) // len(_PALETTE)]


def method_colour(method: str) -> str:
    """The colour of a method in every figure; methods beyond the palette begin it again."""
    if method == REFERENCE:
        return _REFERENCE_COLOUR
    return _PALETTE[_place(method) % len(_PALETTE)]


def _place(method: str) -> int:
    others = [name for name in METHODS if name != REFERENCE]
    return others.index(method) if method in others else 0


@contextmanager
def styled() -> Iterator[None]:
    """Our style within the block, whatever the user's matplotlibrc says."""
    with style.context(["default", _STYLE]):
        yield


def save(folder: Path, name: str, figure: Figure, data: pd.DataFrame) -> None:
    """Write `<name>.png` (150 dpi), `<name>.svg` and `<name>.csv`, which holds what the figure shows."""
    with styled():
        figure.savefig(folder / f"{name}.png", dpi=PNG_DPI)
        figure.set_layout_engine("none")  # the SVG keeps the PNG's: a quarter of the work is layout
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    data.to_csv(folder / f"{name}.csv", index=False)
