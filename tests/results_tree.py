"""A small results folder of the real grammar: random features of known structure, through the real evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from threadpoolctl import threadpool_limits

from pipeline_steps.core.methods import METHODS, REFERENCE
from pipeline_steps.core.schema import EvalProbeConfig
from pipeline_steps.core.schema.evaluation import StrengthsConfig
from pipeline_steps.evaluation.features.index import Features, SetFacts, SplitFacts
from pipeline_steps.evaluation.linear_probe import evaluate_probe
from pipeline_steps.evaluation.retrieval import evaluate_retrieval
from pipeline_steps.evaluation.scores import EVALUATOR_VERSION
from pipeline_steps.evaluation.zero_shot import evaluate_zero_shot
from tests.feature_tree import write_index

Floats = npt.NDArray[np.float32]
PROBE = EvalProbeConfig(
    tap="projected",
    normalize=True,
    inverse_l2=StrengthsConfig(lowest=0.1, highest=10.0, per_decade=1, start=2),
    validation_fraction=0.25,
    max_iterations=500,
)
SETTINGS = {
    "eval_zeroshot": {"topk": [1, 5]},
    "eval_probe": {
        "tap": "projected",
        "normalize": True,
        "validation_fraction": 0.25,
        "max_iterations": 500,
        "inverse_l2": {"lowest": 0.1, "highest": 10.0, "per_decade": 1, "start": 2},
    },
    "eval_retrieval": {"recall_at": [1, 5, 10]},
    "make_tables": {
        "bootstrap_samples": 200,
        "confidence": 0.95,
        "class_metric": "by_set",
        "averages": {},
        "paper": None,
    },
}
CLASSES, WIDTH, TEST, TRAIN, VALIDATION = 8, 12, 120, 160, 90
SIGNALS = {"continued": 0.3, "gradient_ascent": 0.22, "ncu": 0.35}


def unit(rows: npt.NDArray[np.floating]) -> Floats:
    """Rows of length one, float32."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class MadeSet:
    """An evaluation set of the tree: a hole has no tensors, folds are of its test pictures."""

    name: str
    metric: str = "accuracy"
    tasks: tuple[str, ...] = ("classification", "retrieval")
    folds: int | None = None
    hole: str | None = None

    def facts(self) -> SetFacts:
        """What prepare_dataset would say of it."""
        said = {"title": self.name, "tasks": self.tasks, "metric": self.metric, "evaluator": EVALUATOR_VERSION}
        if self.hole:
            return SetFacts(**said, source=None, hole=self.hole)
        splits = {
            split: SplitFacts(split=split, n=count, label_hash=f"hash-of-{self.name}")
            for split, count in (("test", TEST), ("train", TRAIN))
        }
        classes = tuple(f"class {index}" for index in range(CLASSES))
        return SetFacts(**said, source="parquet: made", classes=classes, folds=self.folds, splits=splits)

    def tensors(self, random: np.random.Generator, signal: float) -> dict[str, npt.NDArray[np.generic]]:
        """Its pictures, labels, captions and class texts."""
        centres, found = unit(random.normal(size=(CLASSES, WIDTH))), {}
        for split, count in (("test", TEST), ("train", TRAIN)):
            label = np.arange(count) % CLASSES
            noise = unit(random.normal(size=(count, WIDTH)))
            found[f"{split}/image"] = unit(signal * centres[label] + noise)
            found[f"{split}/label"] = np.where(np.arange(count) % 5 == 4, -1, label)
        owner = np.array([row for row in range(TEST) if row % 7 for _ in range(2 if row % 3 == 0 else 1)])
        noise = unit(random.normal(size=(len(owner), WIDTH)))
        found["test/caption"] = unit(signal * found["test/image"][owner] + (1 - signal) * noise)
        found["test/caption_image"] = owner
        found["class_text"] = unit(centres + (1 - signal) * unit(random.normal(size=centres.shape)))
        if "classification" not in self.tasks:
            found = {part: rows for part, rows in found.items() if part.startswith("test/") and "label" not in part}
        if "retrieval" not in self.tasks:
            found = {part: rows for part, rows in found.items() if "caption" not in part}
        return {f"{self.name}/{part}": rows for part, rows in found.items()}


def made(datasets: Sequence[str | MadeSet]) -> list[MadeSet]:
    """Sets by name are of both tasks, without folds."""
    return [MadeSet(one) if isinstance(one, str) else one for one in datasets]


def write_features(
    path: Path, *, signal: float, seed: int = 0, datasets: Sequence[str | MadeSet] = ("openclipart",)
) -> None:
    """Features whose texts point at their pictures with weight `signal` (0: not at all, 1: exactly).

    The pictures' labels, the captions' pictures and all noise are those of `seed`; in each data set every fifth
    picture has no class, every seventh no caption and every third two captions.
    """
    tensors: dict[str, npt.NDArray[np.generic]] = {}
    for number, one in enumerate(made(datasets)):
        if not one.hole:
            tensors |= one.tensors(np.random.default_rng([seed, number]), signal)
    random = np.random.default_rng([seed, 99])
    image = unit(random.normal(size=(VALIDATION, WIDTH)))
    tensors["validation/image"] = image
    tensors["validation/text"] = unit(signal * image + (1 - signal) * unit(random.normal(size=image.shape)))
    write_index(path, tensors, {one.name: one.facts() for one in made(datasets)})


def write_history(path: Path, *, steps: int, terms: Sequence[str] = (), noise: float | None = None) -> None:
    """A falling loss with its terms; with `noise`, the forget set against that share of shuffled pairs."""
    random = np.random.default_rng(steps)
    rows: list[tuple[int, int, str, float]] = []
    for step in range(steps):
        epoch = 4 * step // steps
        loss = 1.5 + 4 * np.exp(-4 * step / steps) + 0.15 * random.normal()
        values = {"loss": loss, "lr": 1e-3 * (1 - step / steps), "pairs_per_second": 400 + 20 * random.normal()}
        values |= {f"loss/{term}": loss / (number + 2) for number, term in enumerate(terms)}
        if noise is not None:
            precision = noise + 0.3 * (1 - step / steps) + 0.05 * random.normal()
            values |= {"forget_set/precision": precision, "forget_set/recall": 0.1 * precision / noise}
            values["forget_set/base_rate"] = noise + 0.02 * random.normal()
        rows += [(step, epoch, name, float(value)) for name, value in values.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=["step", "epoch", "name", "value"]).to_parquet(path, index=False)


def write_histories(results: Path, methods: Sequence[str], seed: int, *, steps: int = 40, noise: float = 0.4) -> None:
    """The histories that the training stages of these methods would leave."""
    terms = {"ncu": ("realignment", "separation")}
    for method in methods:
        path = results / METHODS[method].stage / method / f"seed{seed}" / "history.parquet"
        write_history(
            path,
            steps=steps,
            terms=terms.get(method, ()),
            noise=noise if method in ("gradient_ascent", "ncu") else None,
        )
    if "ncu" in methods:
        folder = results / "learn_prompt" / "ncu" / f"seed{seed}"
        three = ("separation", "relation", "matching")
        write_history(folder / "history.parquet", steps=steps // 2, terms=three, noise=noise)


def evaluate(results: Path, method: str, seed: int) -> None:
    """The three evaluations, by the functions that the steps call."""
    cell = Path(method) / f"seed{seed}"
    features = Features(results / "extract_features" / cell / "features.json")
    with threadpool_limits(1):
        found = {
            "eval_zeroshot": (evaluate_zero_shot(features, topk=(1, 5)), "predictions.parquet"),
            "eval_probe": (evaluate_probe(features, PROBE, seed=seed), "predictions.parquet"),
            "eval_retrieval": (evaluate_retrieval(features, recall_at=(1, 5, 10)), "ranks.parquet"),
        }
    for stage, (evaluation, outcomes) in found.items():
        evaluation.write(results / stage / cell / "scores.json", results / stage / cell / outcomes)


def write_tree(
    results: Path,
    signals: Mapping[str, float] = SIGNALS,
    *,
    seeds: Sequence[int] = (0,),
    datasets: Sequence[str | MadeSet] = ("openclipart",),
    histories: bool = True,
) -> Path:
    """`results` with features, histories and evaluations of the reference and the methods of `signals`."""
    for seed in seeds:
        for method, signal in {REFERENCE: 0.25, **signals}.items():
            path = results / "extract_features" / method / f"seed{seed}" / "features.json"
            write_features(path, signal=signal, seed=seed, datasets=datasets)
            evaluate(results, method, seed)
        if histories:
            write_histories(results, [REFERENCE, *(m for m in signals if m != REFERENCE)], seed)
    return results
