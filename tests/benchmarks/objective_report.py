"""The tables and the plot of `tests.benchmarks.objective`."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tabulate import tabulate

from tests.benchmarks.measure import Samples

KIND = "structured"
NAMES = {"ours": "this pipeline", "textbook": "textbook, log domain", "pot": "with POT's Sinkhorn"}
COLOURS = {"ours": "#0072b2", "textbook": "#d55e00", "pot": "#009e73"}
MARKERS = {"ours": "o", "textbook": "s", "pot": "^"}
Results = dict[tuple[str, str, int], Samples]


def write_report(results: Results, out: Path, machine: str, run_limit: float) -> str:
    """Write objective.md and objective_cost.png to `out`; return the Markdown."""
    out.mkdir(parents=True, exist_ok=True)
    text = "\n".join(
        [
            f"Phase-2 objective, forward and backward, d = 512, float32, P = 0.1, epsilon = 0.03. {machine}.",
            "",
            "Medians in seconds; in brackets how many times as long as this pipeline takes.",
            "",
            _times(results),
            "",
            "Largest relative error of a marginal, and iterations of the solver.",
            "",
            _plans(results),
            "",
            "Peak memory above the embeddings, MiB; in brackets the number of N x N float32 matrices.",
            "",
            _memory(results),
            "",
            f"A dash: a run would take over {run_limit:g} s, or none was asked for. The textbook makes two solves of "
            "100 iterations in the log domain; POT is told to stop at this pipeline's tolerance, at the latest after "
            "2,000 iterations. Memory is resident memory on a CPU, allocated memory on a GPU.",
            "",
            "![Cost against batch size](objective_cost.png)",
            "",
        ]
    )
    (out / "objective.md").write_text(text, encoding="utf-8")
    plot(results).savefig(out / "objective_cost.png", dpi=150)
    return text


def plot(results: Results) -> Figure:
    """Time and memory against N, both axes logarithmic, a line per case of the structured batch."""
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw(left, {key: samples.median for key, samples in results.items()}, "seconds")
        _draw(right, {key: samples.peak_mib for key, samples in results.items()}, "peak memory, MiB")
        left.legend(frameon=False)
        return figure


def _draw(axes: Axes, values: dict[tuple[str, str, int], float], label: str) -> None:
    lines = {
        name: sorted((size, value) for (kind, case, size), value in values.items() if (kind, case) == (KIND, name))
        for name in NAMES
    }
    sizes = [size for size, _ in lines["ours"]]
    largest, last = lines["ours"][-1]
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker=MARKERS[name], color=COLOURS[name], label=NAMES[name])
    growth = [last * (size / largest) ** 2 for size in sizes]
    axes.plot(sizes, growth, ":", color="#888888", linewidth=1, label="growth with $N^2$", zorder=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("batch size N")
    axes.set_ylabel(label)
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)


def _times(results: Results) -> str:
    rows = []
    for kind, size in _lines(results):
        ours = results[kind, "ours", size]
        row = [kind, f"{size:,}", f"{ours.median:.3f}", f"{ours.answer['transport']:.3f}", str(len(ours.seconds))]
        for name in ("textbook", "pot"):
            other = results.get((kind, name, size))
            row.append("-" if other is None else f"{other.median:.3f} ({other.median / ours.median:.1f}x)")
        rows.append(row)
    return _table(rows, ["batch", "N", NAMES["ours"], "of it transport", "runs", NAMES["textbook"], NAMES["pot"]])


def _plans(results: Results) -> str:
    rows = []
    for kind, size in _lines(results):
        row = [kind, f"{size:,}"]
        for name in NAMES:
            found = results.get((kind, name, size))
            row.append("-" if found is None else f"{found.answer['error']:.1e} ({found.answer['iterations']:.0f})")
        rows.append(row)
    return _table(rows, ["batch", "N", *NAMES.values()])


def _memory(results: Results) -> str:
    rows = []
    for kind, size in _lines(results):
        row = [kind, f"{size:,}"]
        for name in NAMES:
            found = results.get((kind, name, size))
            known = found is not None and math.isfinite(found.peak_mib)
            row.append(
                f"{found.peak_mib:,.0f} ({found.peak_mib / (size**2 * 4 / 2**20):.1f})" if found and known else "-"
            )
        rows.append(row)
    return _table(rows, ["batch", "N", *NAMES.values()])


def _lines(results: Results) -> list[tuple[str, int]]:
    return [(kind, size) for kind, name, size in results if name == "ours"]


def _table(rows: list[list[str]], headers: list[str]) -> str:
    return str(tabulate(rows, headers, tablefmt="pipe", disable_numparse=True))
