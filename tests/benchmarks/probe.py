"""The linear probe against scikit-learn's L-BFGS: a sweep over the strength, and one fit against N and classes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression

from pipeline_steps.core.schema import StrengthsConfig
from pipeline_steps.evaluation.labelled_rows import ArrayMatrix, LabelledRows, Part
from pipeline_steps.evaluation.linear_probe import divided
from pipeline_steps.evaluation.softmax_regression import SoftmaxRegression, Solution
from pipeline_steps.evaluation.strength_sweep import choose_strength
from tests.benchmarks.measure import Samples, run_once
from tests.oracles import probe as oracle

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
MOST_ITERATIONS = 1000  # CLIP's own; both sides'
TOLERANCE, TIGHT = 1e-4, 1e-6  # scikit-learn's own, and one that brings it near the optimum
CPU = torch.device("cpu")
OURS, THEIRS = "this pipeline", "scikit-learn"
Costs = dict[tuple[str, int, int], Samples]


@dataclass(frozen=True)
class Examples:
    """Training features (n, d), not normalised, with their classes (n,), and what they are, in words."""

    title: str
    image: Floats
    label: Integers


@dataclass
class Fit:
    """One fit: its strength, objective (float64), seconds with the count of right answers, and iterations."""

    inverse_l2: float
    objective: float
    seconds: float
    iterations: int


@dataclass
class Comparison:
    """The same sweep on both sides, strength by strength in the order of ours, the final fit last.

    `tight` is scikit-learn's final fit once more, to the tolerance TIGHT.
    """

    title: str
    shape: tuple[int, int, int]
    tolerance: float
    ours: list[Fit] = field(default_factory=list)
    theirs: list[Fit] = field(default_factory=list)
    ours_seconds: list[float] = field(default_factory=list)
    tight: Fit | None = None

    @property
    def theirs_seconds(self) -> float:
        """Seconds of scikit-learn's fits."""
        return sum(fit.seconds for fit in self.theirs)


def compare(
    examples: Examples, strengths: StrengthsConfig, *, repeats: int, tolerance: float = TOLERANCE
) -> Comparison:
    """The paper's sweep and the final fit on unit features: ours `repeats` times, then scikit-learn once, each cold."""
    part = Part(ArrayMatrix(examples.image), examples.label)
    fitted, held_out = divided(part, 0.2, seed=0)
    found = Comparison(examples.title, (*examples.image.shape, len(np.unique(examples.label))), tolerance)
    for _ in range(repeats):
        found.ours.clear()
        started = time.perf_counter()
        with _recorded(found.ours):
            sweep = choose_strength(_rows(fitted), _rows(held_out), strengths, MOST_ITERATIONS, title="probe")
            SoftmaxRegression(_rows(part)).fit(sweep.chosen.inverse_l2, MOST_ITERATIONS, sweep.chosen)
        found.ours_seconds.append(time.perf_counter() - started)
    unit = unit_rows(examples.image).astype(np.float64)
    train, test = fitted.label >= 0, held_out.label >= 0
    sides = (unit[train], examples.label[train]), (unit[test], examples.label[test])
    found.theirs += [_theirs(*sides[0], fit.inverse_l2, tolerance, sides[1]) for fit in found.ours[:-1]]
    found.theirs.append(_theirs(unit, examples.label, found.ours[-1].inverse_l2, tolerance))
    found.tight = _theirs(unit, examples.label, found.ours[-1].inverse_l2, TIGHT)
    return found


def costs(sizes: Sequence[int], classes: Sequence[int], *, rows: int, width: int, limit: float) -> Costs:
    """One fit at C = 1 of made-up features, against N with 10 classes and against the classes with `rows` rows.

    A fit of scikit-learn's that would take more than `limit` seconds, as the last one grew, is left out.
    """
    found: Costs = {}
    run_once(lambda: _fit_ours(made_features(200, width, 5)), Samples(), CPU)
    for axis in ([(size, 10) for size in sizes], [(rows, count) for count in classes]):
        last = 0.0
        for size, count in axis:
            if (OURS, size, count) in found:
                last = found[THEIRS, size, count].median if (THEIRS, size, count) in found else last
                continue
            examples = made_features(size, width, count)
            run_once(lambda given=examples: _fit_ours(given), found.setdefault((OURS, size, count), Samples()), CPU)
            if 4 * last <= limit:
                samples = found.setdefault((THEIRS, size, count), Samples())
                run_once(lambda given=examples: _fit_theirs(given), samples, CPU)
                last = samples.median
            else:
                last = float("inf")
    return found


def made_features(rows: int, width: int, classes: int, seed: int = 0) -> Examples:
    """Clusters about a common direction with a spectrum that falls as 1 / sqrt(k), as image embeddings have."""
    random = np.random.default_rng(seed)
    spectrum = 1 / np.sqrt(np.arange(1, width + 1))
    label = random.permutation(np.arange(rows) % classes)
    centre = random.normal(size=(classes, width)) * spectrum
    image = 0.6 * centre[label] + random.normal(size=(rows, width)) * spectrum + 2 * spectrum
    return Examples(f"made-up features ({rows:,} x {width})", image.astype(np.float32), label)


def unit_rows(image: Floats) -> Floats:
    """Rows of length one."""
    return image / np.linalg.norm(image, axis=1, keepdims=True)


def _rows(part: Part) -> LabelledRows:
    return LabelledRows([part], normalize=True, device=CPU)


@contextmanager
def _recorded(fits: list[Fit]) -> Iterator[None]:
    """Every fit of ours within is told to `fits`."""
    original = SoftmaxRegression.fit

    def fit(self: SoftmaxRegression, inverse_l2: float, most: int, start: Solution | None = None) -> Solution:
        started = time.perf_counter()
        solution = original(self, inverse_l2, most, start)
        seconds = time.perf_counter() - started
        fits.append(Fit(inverse_l2, solution.objective, seconds, solution.iterations))
        return solution

    with mock.patch.object(SoftmaxRegression, "fit", fit):
        yield


def _theirs(
    image: npt.NDArray[np.float64], label: Integers, inverse_l2: float, tolerance: float,
    held_out: tuple[npt.NDArray[np.float64], Integers] | None = None,
) -> Fit:  # fmt: skip
    started = time.perf_counter()
    model = LogisticRegression(C=inverse_l2, tol=tolerance, max_iter=MOST_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it stopped at its last iteration: the table has the iterations
        model.fit(image, label)
    if held_out is not None:
        model.score(*held_out)
    seconds = time.perf_counter() - started
    place = np.searchsorted(model.classes_, label)
    value = oracle.objective(model.coef_, model.intercept_, image, place, inverse_l2)
    return Fit(inverse_l2, value, seconds, int(model.n_iter_[0]))


def _fit_ours(examples: Examples) -> dict[str, float]:
    solution = SoftmaxRegression(_rows(Part(ArrayMatrix(examples.image), examples.label))).fit(1.0, MOST_ITERATIONS)
    return {"objective": solution.objective, "iterations": solution.iterations}


def _fit_theirs(examples: Examples) -> dict[str, float]:
    fit = _theirs(unit_rows(examples.image).astype(np.float64), examples.label, 1.0, TIGHT)
    return {"objective": fit.objective, "iterations": fit.iterations}
