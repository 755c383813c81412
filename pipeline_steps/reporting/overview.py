"""The end of a run as plain text: scores, what they mean, where everything is, how long it took."""

from __future__ import annotations

import csv
import textwrap
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.reporting.names import MISSING, column_title, stage_order, title_of
from pipeline_steps.reporting.run_cost import stage_costs
from pipeline_steps.reporting.text_table import text_table

Row = dict[str, str]
WIDTH = 100
_SETS = "/sets"


def overview(experiment: Path, store: str) -> str:
    """The text for `results/<experiment>`, which may be a study; `store` says where MLflow keeps its runs.

    Raises PipelineError when the tables have not been made.
    """
    table = experiment / "tables" / "summary.csv"
    if (experiment / "tables" / "scores.csv").is_file():
        sections = _study_sections(experiment, store)
    elif table.is_file():
        sections = _sections(experiment, table, store)
    else:
        raise PipelineError(f"{table} does not exist; make it with `snakemake make_tables` or `make demo`.")
    return "\n\n".join(f"{title}\n{'-' * len(title)}\n{text}" for title, text in sections.items() if text) + "\n"


def _sections(experiment: Path, table: Path, store: str) -> dict[str, str]:
    labels = experiment / "label_tables" / "README.md"
    return {
        f"Summary of {experiment} (percent)": summary_text(_read(table, ",")),
        "Data sets that could not be had": holes_text(experiment / "tables" / "holes.csv"),
        "What it means": _findings(experiment / "findings.md"),
        "The forget set against the injected noise": forget_text(experiment / "figures" / "forget_set.csv"),
        "Classifiers on noisy labels": _body(labels),
        "Where things are": _places(experiment, store),
        "Time and memory": time_text(experiment / "benchmarks"),
        "What the trainings and features took": cost_text(experiment),
    }


def _study_sections(experiment: Path, store: str) -> dict[str, str]:
    entries = dict.fromkeys(row["entry"] for row in _read(experiment / "tables" / "scores.csv", ","))
    folders = [experiment, *(experiment.with_name(f"{experiment.name}_{entry}") for entry in entries)]
    return {
        f"Study {experiment}": _body(experiment / "tables" / "headlines.md"),
        "What it means": "\n".join(
            textwrap.fill(f"{folder.name}: {_findings(folder / 'findings.md')}", WIDTH) for folder in folders[1:]
        ),
        "Where things are": _places(experiment, store),
        "Time and memory": time_text(*(folder / "benchmarks" for folder in folders)),
    }


def summary_text(rows: list[Row]) -> str:
    """The rows of summary.csv, aligned; where there is a control, with the difference in mean recall to it."""
    keys = [column.removesuffix(_SETS) for column in rows[0] if column.endswith(_SETS)]
    header = ["Method", *(column_title(key, int(float(rows[0][f"{key}{_SETS}"]))) for key in keys)]
    body = [[row["title"], *(_cell(row, key) for key in keys)] for row in rows]
    if any(row.get("mean_recall/minus_control") for row in rows):
        header.append("Mean recall\nminus control [interval]")
        body = [[*cells, _difference(row)] for cells, row in zip(body, rows, strict=True)]
    header = [title.replace("Zero-shot ", "Zero-shot\n").replace(" (", "\n(") for title in header]
    return text_table(header, body, "simple")


def holes_text(path: Path) -> str:
    """A line per data set that is missing, and what can be done; empty without any."""
    if not path.is_file():
        return ""
    lines = [f"{row['dataset']}: {row['hole']}" for row in _read(path, ",")]
    remedy = (
        "A mean over all sets is given when they are there: get them and run again. For a mean over some of the sets, "
        "name them in make_tables.averages."
    )
    return "\n".join(textwrap.fill(line, WIDTH) for line in (*lines, remedy))


def forget_text(path: Path) -> str:
    """A line per stage and method: mean precision, recall and AUROC of its forget sets; empty without noise."""
    if not path.is_file():
        return ""
    values: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in _read(path, ","):
        values[row["stage"], row["method"]][row["name"]].append(float(row["value"]))
    lines = []
    for (stage, method), of_curve in values.items():
        mean = {name: 100 * sum(numbers) / len(numbers) for name, numbers in of_curve.items()}
        lines.append(
            f"{stage}, {title_of(method)}: {mean.get('precision', 0):.1f}% of the pairs picked were shuffled "
            f"(a random pick: {mean['base_rate']:.1f}%); {mean.get('recall', 0):.1f}% of all shuffled pairs were picked"
            + (f"; AUROC {mean['auroc'] / 100:.3f}" if "auroc" in mean else "")
        )
    return "\n".join(lines)


def time_text(*folders: Path) -> str:
    """A row per stage from Snakemake's benchmark files, in pipeline order, then the total; empty without files."""
    runs: dict[str, list[Row]] = defaultdict(list)
    for folder in folders:
        for path in sorted(folder.rglob("*.tsv")):
            runs[path.relative_to(folder).parts[0].removesuffix(".tsv")] += _read(path, "\t")
    if not runs:
        return ""
    order = {stage: number for number, stage in enumerate(stage_order())}
    body = [
        [stage, str(len(rows)), _duration(sum(_numbers(rows, "s"))), _mebibytes(_numbers(rows, "max_rss"))]
        for stage, rows in sorted(runs.items(), key=lambda item: order.get(item[0], len(order)))
    ]
    every = [row for rows in runs.values() for row in rows]
    total = ["all, one after the other", str(len(every)), _duration(sum(_numbers(every, "s")))]
    body.append([*total, _mebibytes(_numbers(every, "max_rss"))])
    return text_table(["Stage", "Jobs", "Time", "Peak memory"], body, "simple")


def cost_text(experiment: Path) -> str:
    """A row per stage that trains or used GPUs, by its records: every attempt, GPU-hours, energy, memory, pairs/s."""
    costs = stage_costs(experiment)
    body = [
        [
            stage, str(cost.runs), _duration(cost.seconds), f"{cost.gpu_hours:.2f}",
            MISSING if cost.energy_kwh is None else f"{cost.energy_kwh:.2f} kWh",
            MISSING if cost.gpu_memory_mib is None else _mebibytes([cost.gpu_memory_mib]),
            MISSING if cost.pairs_per_second is None else f"{cost.pairs_per_second:,.0f}",
        ]
        for stage in stage_order()
        if (cost := costs.get(stage)) and (cost.gpu_hours or cost.pairs_per_second)
    ]  # fmt: skip
    header = ["Stage", "Runs", "Time", "GPU-hours", "GPU energy", "GPU memory", "Pairs/s"]
    return text_table(header, body, "simple") if body else ""


def _cell(row: Row, key: str) -> str:
    mean, spread = row.get(f"{key}/mean"), row.get(f"{key}/std")
    if not mean:
        return MISSING
    note = "" if row.get(f"{key}/above_chance", "") in ("True", "") else " (not above chance)"
    return f"{100 * float(mean):.1f}" + (f" ± {100 * float(spread):.1f}" if spread else "") + note


def _difference(row: Row) -> str:
    keys = [f"mean_recall/minus_control{end}" for end in ("", "_low", "_high")]
    if not row[keys[0]]:
        return ""
    estimate, low, high = (100 * float(row[key]) for key in keys)
    return f"{estimate:+.1f} [{low:+.1f}, {high:+.1f}]"


def _findings(path: Path) -> str:
    return textwrap.fill(path.read_text(encoding="utf-8"), WIDTH) if path.is_file() else ""


def _body(path: Path) -> str:
    """A Markdown file without its first heading; empty without the file."""
    return path.read_text(encoding="utf-8").split("\n", 1)[-1].strip() if path.is_file() else ""


def _places(experiment: Path, store: str) -> str:
    places = {
        "tables": experiment / "tables",
        "figures": experiment / "figures",
        "MLflow": store if store.startswith("http") else f"{store}  (`make mlflow` opens it in the browser)",
    }
    return "\n".join(f"{name:<8}{place}" for name, place in places.items())


def _read(path: Path, delimiter: str) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter=delimiter))


def _numbers(rows: list[Row], column: str) -> list[float]:
    """The numbers of a column; Snakemake writes NA or - for what it had no time to measure."""
    return [float(value) for row in rows if (value := _value(row, column)) not in ("", "NA", "-")]


def _value(row: Mapping[str, str | None], column: str) -> str:
    return row.get(column) or ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _mebibytes(values: list[float]) -> str:
    return f"{max(values):,.0f} MiB" if values else ""
