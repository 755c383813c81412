"""The tables and the plot of `tests.benchmarks.evaluation`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib.figure import Figure
from tabulate import tabulate

from tests.benchmarks.probe import MOST_ITERATIONS, OURS, THEIRS, TIGHT, Comparison, Costs

COLOURS, MARKERS = {OURS: "#0072b2", THEIRS: "#d55e00"}, {OURS: "o", THEIRS: "s"}


@dataclass
class Whole:
    """Seconds of every part of both sides; `scores` top1 and probe of ours, `metrics` of clip_benchmark, fractions."""

    weights: str
    rows: dict[str, int]
    ours: dict[str, float]
    theirs: dict[str, float]
    scores: dict[str, float]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Report:
    """What was measured: `whole` is None without CIFAR-10."""

    machine: str
    whole: Whole | None
    compared: list[Comparison]
    cost: Costs
    width: int
    limit: float

    def write(self, out: Path) -> str:
        """Write evaluation.md and evaluation_cost.png to `out`; return the Markdown."""
        out.mkdir(parents=True, exist_ok=True)
        parts = [f"{self.machine}.", *(_whole(self.whole) if self.whole else [_NO_CIFAR10])]
        for compared in self.compared:
            parts += _sweep(compared)
        parts += [
            f"One fit at C = 1 from zero, made-up features of width {self.width}: seconds, in brackets the MiB above "
            f"the start; scikit-learn to the tolerance {TIGHT:g}. A dash: it would take over {self.limit:g} s.",
            self._costs(),
            "![Cost against rows and classes](evaluation_cost.png)",
        ]
        text = "\n\n".join(parts) + "\n"
        (out / "evaluation.md").write_text(text, encoding="utf-8")
        self.plot().savefig(out / "evaluation_cost.png", dpi=150)
        return text

    def plot(self) -> Figure:
        """Seconds against N and against the number of classes, all axes logarithmic."""
        with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
            figure = Figure(figsize=(9, 3.8), layout="constrained")
            fewest, rows = self._corner()
            for axes, label, place, (fixed, value) in zip(
                figure.subplots(1, 2), ("rows N", "classes"), (1, 2), ((2, fewest), (1, rows)), strict=True
            ):
                for name in (OURS, THEIRS):
                    points = sorted(
                        (key[place], samples.median)
                        for key, samples in self.cost.items()
                        if key[0] == name and key[fixed] == value
                    )
                    axes.plot(*zip(*points, strict=True), marker=MARKERS[name], color=COLOURS[name], label=name)
                axes.set_xscale("log")
                ticks = sorted({key[place] for key in self.cost if key[fixed] == value})
                axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
                axes.minorticks_off()
                axes.set_yscale("log")
                axes.set_xlabel(label)
                axes.set_ylabel("seconds")
                axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
                axes.legend(frameon=False)
            return figure

    def _corner(self) -> tuple[int, int]:
        """The classes where the rows vary, and the rows where the classes vary."""
        counts = [key[2] for key in self.cost]
        most = max(counts)
        return min(counts), next(key[1] for key in self.cost if key[2] == most)

    def _costs(self) -> str:
        rows = []
        for name, size, classes in self.cost:
            if name != OURS:
                continue
            ours, theirs = self.cost[OURS, size, classes], self.cost.get((THEIRS, size, classes))
            row = [f"{size:,}", f"{classes:,}", f"{ours.median:.2f} ({ours.peak_mib:,.0f})", _iterations(ours.answer)]
            if theirs is None:
                rows.append([*row, "-", "-", "-", "-"])
                continue
            above = theirs.answer["objective"] / ours.answer["objective"] - 1
            row += [f"{theirs.median:.2f} ({theirs.peak_mib:,.0f})", _iterations(theirs.answer), f"{above:.1e}"]
            rows.append([*row, f"{theirs.median / ours.median:.1f}x"])
        headers = ["N", "classes", OURS, "iterations", THEIRS, "iterations", "its objective above ours", "time"]
        return _table(rows, headers)


_NO_CIFAR10 = (
    "CIFAR-10 was not given (`make bench CIFAR10=folder`), so no whole evaluation was compared; the probe ran on "
    "bundled pictures and on made-up features."
)


def _whole(whole: Whole) -> list[str]:
    ours, theirs = sum(whole.ours.values()), sum(whole.theirs.values())
    rows = [["this pipeline", name, f"{seconds:.1f}"] for name, seconds in whole.ours.items()]
    rows += [["this pipeline", "**all**", f"**{ours:.1f}**"]]
    rows += [["the other side", name, f"{seconds:.1f}"] for name, seconds in whole.theirs.items()]
    rows += [["the other side", "**all**", f"**{theirs:.1f} ({theirs / ours:.1f}x)**"]]
    return [
        f"CIFAR-10, {whole.rows['train']:,} training and {whole.rows['test']:,} test pictures, the demo's architecture "
        f"({whole.weights}): zero-shot classification and linear probe, seconds of whole processes. clip_benchmark's "
        "probe asserts a CUDA device (and trains with AdamW), so it does not run here. It begins with embedding the "
        "training and the test pictures, and shares nothing with zero-shot; in its place stand the zero-shot command "
        "on both, and scikit-learn's L-BFGS on the features that this pipeline extracted.",
        _table(rows, ["", "", "seconds"]),
        f"Zero-shot top-1: {whole.scores['top1']:.4f} here, {whole.metrics['acc1']:.4f} by clip_benchmark. "
        f"Probe: {whole.scores['probe']:.4f}.",
    ]


def _sweep(compared: Comparison) -> list[str]:
    rows = []
    for ours, theirs in zip(compared.ours, compared.theirs, strict=True):
        above = theirs.objective / ours.objective - 1
        times = [f"{ours.seconds:.2f}", str(ours.iterations), f"{theirs.seconds:.2f}", _stopped(theirs.iterations)]
        rows.append(
            [f"{ours.inverse_l2:g}", f"{ours.objective:.9g}", f"{theirs.objective:.9g}", f"{above:.1e}", *times]
        )
    rows[-1][0] += " (final)"
    if compared.tight:
        tight, ours = compared.tight, compared.ours[-1]
        times = ["", "", f"{tight.seconds:.2f}", _stopped(tight.iterations)]
        above = f"{tight.objective / ours.objective - 1:.1e}"
        rows.append([f"{ours.inverse_l2:g} (tolerance {TIGHT:g})", "", f"{tight.objective:.9g}", above, *times])
    seconds, (n, width, classes) = median(compared.ours_seconds), compared.shape
    worst = min(
        theirs.objective / ours.objective - 1 for ours, theirs in zip(compared.ours, compared.theirs, strict=True)
    )
    headers = ["C", OURS, THEIRS, "above ours", "s", "iterations", "s", "iterations"]
    return [
        f"The probe's sweep on {compared.title}, {classes} classes: {n:,} x {width}, four fifths of them for the sweep "
        f"and all for the final fit. {OURS.capitalize()} {seconds:.1f} s (median of {len(compared.ours_seconds)}), "
        f"{THEIRS} {compared.theirs_seconds:.1f} s: **{compared.theirs_seconds / seconds:.1f} times as long**. The "
        f"objective of {THEIRS} (tolerance {compared.tolerance:g}, {MOST_ITERATIONS} iterations) is at best "
        f"{worst:.1e} above ours, relative.",
        _table(rows, headers),
    ]


def _stopped(iterations: int) -> str:
    return f"{iterations} (stopped)" if iterations >= MOST_ITERATIONS else str(iterations)


def _iterations(answer: dict[str, float]) -> str:
    return f"{answer['iterations']:.0f}"


def _table(rows: list[list[str]], headers: list[str]) -> str:
    return str(tabulate(rows, headers, tablefmt="pipe", disable_numparse=True))
