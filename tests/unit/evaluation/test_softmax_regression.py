from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.evaluation import labelled_rows
from pipeline_steps.evaluation.labelled_rows import ArrayMatrix, LabelledRows, Part
from pipeline_steps.evaluation.softmax_regression import SoftmaxRegression, Solution
from tests.oracles import probe as oracle
from tests.real_features import CIFAR10, bundled_pictures, cifar10_pixels
from tests.unit.paths import REPOSITORY

CPU = torch.device("cpu")
NEAR = 1e-6
STATED = 2e-7  # what the solver says of its TOLERANCE: converged, the objective is so near to its least value
WIDTH = 16  # the solver samples 16 rows per column, fewer than there are


@cache
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """400 bundled pictures by 40 principal components, the largest first."""
    return bundled_pictures(40, 400)


@pytest.fixture(scope="module")
def real() -> tuple[np.ndarray, np.ndarray]:
    image, label = pictures()
    return np.ascontiguousarray(image[:, :WIDTH]), label


def regression(image: np.ndarray, label: np.ndarray, *, device: torch.device = CPU, normalize: bool = False, **options):
    rows = LabelledRows([Part(ArrayMatrix(image), label)], normalize=normalize, device=device, **options)
    return SoftmaxRegression(rows)


def reached(solution: Solution, image: np.ndarray, label: np.ndarray) -> float:
    """The objective as scikit-learn writes it, by the oracle."""
    weight, bias = solution.weight_KD.cpu().numpy(), solution.bias_K.cpu().numpy()
    if len(weight) == 2:
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    place = np.searchsorted(solution.classes, label)
    return oracle.objective(weight, bias, image.astype(np.float64), place, solution.inverse_l2)


def assert_optimal(solution: Solution, image: np.ndarray, label: np.ndarray) -> None:
    least = oracle.optimum(image.astype(np.float64), label, solution.inverse_l2)
    value = reached(solution, image, label)
    assert solution.converged
    assert value <= least * (1 + NEAR)
    assert value >= least * (1 - NEAR)
    assert solution.objective == pytest.approx(value, rel=1e-8)


@pytest.mark.parametrize("inverse_l2", [1e-6, 1e-3, 1.0, 30.0, 1e3])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_optimum_on_real_pictures_is_scikit_learns(
    real: tuple[np.ndarray, np.ndarray], inverse_l2: float, normalize: bool
) -> None:
    image, label = real
    solution = regression(image, label, normalize=normalize).fit(inverse_l2, 3000)
    seen = image / np.linalg.norm(image, axis=1, keepdims=True) if normalize else image
    assert_optimal(solution, seen, label)


@pytest.mark.skipif(
    not (CIFAR10 / "train.parquet").is_file(), reason="needs CIFAR-10 as parquet: CIFAR10=folder of train.parquet"
)
@pytest.mark.parametrize("inverse_l2", [1e-4, 1.0, 100.0])
def test_the_optimum_on_cifar10_is_scikit_learns(inverse_l2: float) -> None:
    image, label = cifar10_pixels(24, 1000)
    assert_optimal(regression(image, label).fit(inverse_l2, 3000), image, label)


@pytest.mark.parametrize("inverse_l2", [1e-3, 1.0, 100.0])
def test_two_classes_have_scikit_learns_one_weight_vector(
    real: tuple[np.ndarray, np.ndarray], inverse_l2: float
) -> None:
    image, label = real
    assert_optimal(regression(image, label % 2).fit(inverse_l2, 3000), image, label % 2)


def test_a_warm_start_ends_where_a_cold_one_does(real: tuple[np.ndarray, np.ndarray]) -> None:
    problem, last = regression(*real), None
    for inverse_l2 in (1e-2, 1e3, 1.0, 30.0):
        last = problem.fit(inverse_l2, 3000, last)
        cold = problem.fit(inverse_l2, 3000)
        assert last.converged
        assert cold.converged
        assert last.objective == pytest.approx(cold.objective, rel=STATED)  # neither can be below the least
    again = problem.fit(30.0, 3000, last)
    assert (again.iterations, again.passes) == (0, 1)


@cache
def _hard_cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    image, label = pictures()[0][:300], pictures()[1][:300]
    random = np.random.default_rng(0)
    gap = label.copy()
    gap[label == 3] = 9
    return {
        "numbers of classes with holes": (image, gap),
        "columns that repeat and a constant one": (
            np.concatenate([image, image[:, :5], 0 * image[:, :1] + 3], 1),
            label,
        ),
        "rows that repeat": (np.repeat(image[:100], 3, axis=0), np.repeat(label[:100], 3)),
        "fewer rows than columns": (image[:30], label[:30]),
        "a class with one row": (image[:60], np.where(np.arange(60) == 7, 11, label[:60] % 3)),
        "far from the origin": (image + 50, label),
        "large numbers": (10 * image, label),
        "float16": (image.astype(np.float16), label),
        "rows in order of class": (image[np.argsort(label)], np.sort(label)),
        "separable": (image[:60] + 5 * np.eye(40)[label[:60]], label[:60]),
        "noise": (random.normal(size=(300, 40)).astype(np.float32), label),
    }


@pytest.mark.parametrize("case", sorted(_hard_cases()))
@pytest.mark.parametrize("inverse_l2", [1e-3, 10.0])
def test_hard_features(case: str, inverse_l2: float) -> None:
    image, label = _hard_cases()[case]
    image = image.astype(np.float16 if case == "float16" else np.float32)
    assert_optimal(regression(image, label).fit(inverse_l2, 3000), image.astype(np.float32), label)


def rounding(image: np.ndarray, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> float:
    """The largest error, as a share of C times the sum of |x|, of a gradient that `dtype` computes in any order.

    An inner product of d terms is off by at most d u of the sum of its terms' sizes, so a logit by at most d + 2 u of
    L, the largest such sum, and with it a residual, which is at most 1, by 2 (d + 2) u L; the sum over n rows adds n u.
    """
    rows, width = image.shape
    x = torch.from_numpy(image).double()
    largest = float((x.abs() @ weight.abs().T + bias.abs()).max())
    return (2 * (width + 2) * max(largest, 1.0) + rows) * torch.finfo(dtype).eps / 2


def test_the_gradient_is_that_of_the_objective(real: tuple[np.ndarray, np.ndarray]) -> None:
    problem = regression(*real)
    torch.manual_seed(0)
    weight = torch.randn(len(problem.classes), WIDTH, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(len(problem.classes), dtype=torch.float64, requires_grad=True)
    image, label = torch.from_numpy(real[0]).double(), torch.from_numpy(real[1])
    loss = torch.nn.functional.cross_entropy(image @ weight.T + bias, label, reduction="sum")
    whole = 0.3 * loss + 0.5 * (weight**2).sum()
    wanted = torch.autograd.grad(whole, [weight, bias])
    weight, bias = weight.detach(), bias.detach()
    for dtype in (torch.float64, torch.float32):
        near = rounding(real[0], weight, bias, dtype)
        assert near < (1e-11 if dtype == torch.float64 else 1e-2)
        value = problem.evaluate(weight, bias, 0.3, dtype)
        assert value.objective == pytest.approx(whole.item(), rel=near)
        assert ((value.weight_KD - wanted[0]).abs() <= near * 0.3 * image.abs().sum(dim=0)).all()
        assert ((value.bias_K - wanted[1]).abs() <= near * 0.3 * len(image)).all()


def test_chunks_and_rows_that_are_read_again_change_nothing(
    real: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = regression(*real)
    whole = together.fit(1.0, 3000)
    at = (whole.weight_KD, whole.bias_K, 1.0, torch.float64)
    far = together.evaluate(*at)
    monkeypatch.setattr(labelled_rows, "_BLOCK_ELEMENTS", WIDTH * 70)
    monkeypatch.setattr(labelled_rows, "_CHUNK_ELEMENTS", (WIDTH + 8) * 32)
    image, label = real
    parts = [Part(ArrayMatrix(image[:250]), label[:250]), Part(ArrayMatrix(image[250:]), label[250:])]
    rows = LabelledRows(parts, normalize=False, device=CPU, kept_bytes=0)
    assert len(list(rows.blocks())) == 4 + 3
    assert rows.chunk_size(8) == 32
    streamed = SoftmaxRegression(rows).fit(1.0, 3000)
    assert streamed.objective == pytest.approx(whole.objective, rel=STATED)
    near, bound = SoftmaxRegression(rows).evaluate(*at), rounding(image, *at[:2], torch.float64)
    assert near.objective == pytest.approx(far.objective, rel=bound)
    assert ((near.weight_KD - far.weight_KD).abs().numpy() <= 2 * bound * np.abs(image).sum(axis=0)).all()


def test_a_fit_that_stops_early_says_so_and_is_no_worse_than_its_start(real: tuple[np.ndarray, np.ndarray]) -> None:
    problem = regression(*real)
    stopped = problem.fit(1e3, 4)
    assert not stopped.converged
    assert stopped.iterations == 4
    assert stopped.objective < 1e3 * len(real[1]) * np.log(len(problem.classes))


@pytest.mark.parametrize("inverse_l2", [1e-6, 1e6])
def test_the_ends_of_the_sweep_are_reached_or_said_not_to_be(
    real: tuple[np.ndarray, np.ndarray], inverse_l2: float
) -> None:
    image, label = real
    solution = regression(image, label).fit(inverse_l2, 3000)
    least = oracle.optimum(image.astype(np.float64), label, inverse_l2)
    assert not solution.converged or solution.objective <= least * (1 + NEAR)
    assert solution.converged or inverse_l2 > 1  # a strong penalty alone makes a problem that float64 holds
    assert solution.objective <= 1.01 * least


def test_one_class_is_refused() -> None:
    with pytest.raises(PipelineError, match="holds 1 class, and a probe needs two"):
        regression(np.ones((5, 3), dtype=np.float32), np.full(5, 4))


def test_an_objective_that_overflows_is_refused() -> None:
    image = np.full((4, 2), 3e38, dtype=np.float32)
    image[::2] *= -1
    with pytest.raises(PipelineError, match=r"not finite|eval_probe\.inverse_l2\.highest"):
        regression(image, np.arange(4) % 2).fit(1e6, 10)


def test_memory_does_not_grow_with_the_rows_of_features_that_are_not_kept(tmp_path: Path) -> None:
    """A pass holds a few blocks of 2^22 numbers at a time, 2^15 rows of 128, 16 MiB each: two more of them to read,
    with 32 MiB of features and 16 MiB of logits, add no more than four numbers of 8 bytes a row (labels and a draw).
    """
    block = 2**15
    (_, _, few), (features, logits, many) = _probe_memory(tmp_path, rows=(3 * block, 5 * block))
    assert (features, logits) == (80, 40)
    assert many < few + 4 * 8 * 2 * block / 2**20 + 4


def _probe_memory(folder: Path, *, rows: tuple[int, ...]) -> list[list[float]]:
    """MiB of the features, of all logits, and of what a fit took beside them, for each number of rows."""
    counts = ",".join(map(str, rows))
    done = subprocess.run(  # noqa: S603 - a script of this folder
        [sys.executable, "-m", "tests.unit.evaluation.probe_memory", str(folder), counts, "128", "64", "1"],
        # what is freed goes back at once, so that the peak is what is held and not what the heap keeps for later
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
        cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [list(map(float, line.split())) for line in done.stdout.splitlines()]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("inverse_l2", [1e-3, 1.0, 100.0])
def test_a_gpu_reaches_the_same_optimum(real: tuple[np.ndarray, np.ndarray], inverse_l2: float) -> None:
    solution = regression(*real, device=torch.device("cuda")).fit(inverse_l2, 3000)
    assert solution.weight_KD.is_cuda
    assert_optimal(solution, *real)
