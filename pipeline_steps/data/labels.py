"""Noisy labels as a file: a row per training picture, with the label to learn from and the truth where it is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.parquet_file import read_parquet, write_parquet

Integers = npt.NDArray[np.int64]
_FILE_COLUMNS = ("label", "label_noisy")
_UNKNOWN = -1


class NoisyLabels(NamedTuple):
    """Rows of the training split (N,), the labels to learn from (N,), and the true ones (N,), None if unknown."""

    row: Integers
    label: Integers
    truth: Integers | None

    @property
    def is_clean(self) -> npt.NDArray[np.bool_] | None:
        """Where the label is the true one."""
        return None if self.truth is None else self.label == self.truth


def write_labels(path: Path, labels: NoisyLabels) -> None:
    """Write row, label and clean_label (null where the truth is unknown)."""
    truth: Any = pa.nulls(len(labels.row), pa.int64()) if labels.truth is None else labels.truth
    write_parquet(path, pa.table({"row": labels.row, "label": labels.label, "clean_label": truth}))


def read_labels(path: Path) -> NoisyLabels:
    """Raises PipelineError for a file that is no such table."""
    remedy = "Run inject_label_noise again."
    table = read_parquet(path, dict.fromkeys(("row", "label", "clean_label"), pa.int64()), remedy)
    if not len(table) or table["row"].null_count or table["label"].null_count:
        raise PipelineError(f"{path} has pictures without a label, or none at all. {remedy}")
    row, label = (table[name].to_numpy() for name in ("row", "label"))
    truth = table["clean_label"].fill_null(_UNKNOWN).to_numpy().astype(np.int64)
    return NoisyLabels(row, label, None if (truth == _UNKNOWN).all() else truth)


def starting_selection(kind: str, labels: NoisyLabels, selection: Path) -> npt.NDArray[np.bool_]:
    """The samples (N,) to train on: `all`, those that are `true`, or what select_clean `selected`.

    Raises PipelineError for true without a truth, for a selection of other pictures, and where no sample is left.
    """
    if kind == "all":
        found = np.ones(len(labels.row), dtype=bool)
    elif kind == "true":
        if labels.is_clean is None:
            raise PipelineError("train_classifier.labels: true needs the truth, and these labels come without it")
        found = labels.is_clean
    else:
        found = _selected(labels, selection)
    if not found.any():
        remedy = "inject_label_noise.fraction" if kind == "true" else "select_clean.agree or its thresholds"
        raise PipelineError(
            f"train_classifier.labels: {kind} leaves none of {len(found)} samples to train on; lower {remedy}"
        )
    return found


def _selected(labels: NoisyLabels, selection: Path) -> npt.NDArray[np.bool_]:
    table = read_parquet(selection, {"row": pa.int64(), "selected": pa.bool_()}, "Run select_clean again.")
    if table["row"].to_pylist() != labels.row.tolist():
        raise PipelineError(f"{selection} is of other pictures than the labels; run select_clean again")
    return np.array(table["selected"].to_pylist(), dtype=bool)


def of_all_classes(row_N: Integers, label_N: Integers, pictures: int, seed: int) -> Integers:
    """`pictures` of the rows (N,), each class as often as in all of them, in their order.

    Raises PipelineError for a number that the classes cannot share.
    """
    from sklearn.model_selection import train_test_split

    try:
        chosen, _ = train_test_split(row_N, train_size=pictures, stratify=label_N, random_state=seed)
    except ValueError as error:
        raise PipelineError(
            f"inject_label_noise.pictures = {pictures} cannot be drawn of {len(row_N)} pictures of "
            f"{len(np.unique(label_N))} classes, each as often as in all of them ({error}); take another, or null"
        ) from error
    found: Integers = np.sort(chosen)
    return found


def labels_of_file(path: Path, truth_N: Integers, *, classes: int) -> Integers:
    """The noisy labels (N,) of a CSV with the columns label and label_noisy, a row per picture in the set's order.

    Raises PipelineError when its true labels are not `truth_N`, or a noisy one is no class.
    """
    try:
        table = pa_csv.read_csv(path)
        true, noisy = (_whole_numbers(table[name]) for name in _FILE_COLUMNS)
    except (OSError, KeyError, pa.ArrowException, ValueError) as error:
        raise PipelineError(
            f"inject_label_noise.file = {str(path)!r} has not the columns {' and '.join(_FILE_COLUMNS)} of whole "
            f"numbers ({' '.join(str(error).split())})"
        ) from error
    if len(true) != len(truth_N) or (true != truth_N).any():
        first = int(np.flatnonzero(true != truth_N)[0]) if len(true) == len(truth_N) else min(len(true), len(truth_N))
        raise PipelineError(
            f"inject_label_noise.file = {str(path)!r} is of other pictures, or in another order: {len(true)} rows for "
            f"{len(truth_N)} pictures, and row {first} is the first whose true label is not the set's"
        )
    if len(strange := np.flatnonzero((noisy < 0) | (noisy >= classes))):
        raise PipelineError(
            f"inject_label_noise.file = {str(path)!r}: label_noisy is {noisy[strange[0]]} in row {strange[0]} and no "
            f"class in {len(strange)} rows; allowed: 0 to {classes - 1}"
        )
    return noisy


def _whole_numbers(column: pa.ChunkedArray) -> Integers:
    if column.null_count or not pa.types.is_integer(column.type):
        raise ValueError(f"{column.null_count} empty cells, and the others are {column.type}")
    found: Integers = column.to_numpy().astype(np.int64)
    return found
