"""A small results folder of the real grammar: random features of known structure, through the real evaluations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors.numpy import save_file
from threadpoolctl import threadpool_limits

from pipeline_steps.core.methods import METHODS, REFERENCE
from pipeline_steps.core.schema import EvalProbeConfig
from pipeline_steps.evaluation.feature_file import FeatureFile
from pipeline_steps.evaluation.linear_probe import evaluate_probe
from pipeline_steps.evaluation.retrieval import evaluate_retrieval
from pipeline_steps.evaluation.zero_shot import evaluate_zero_shot

Floats = npt.NDArray[np.float32]
PROBE = EvalProbeConfig(inverse_l2=(0.1, 10.0), validation_fraction=0.25, max_iterations=500)
SETTINGS = {
    "eval_zeroshot": {"topk": [1, 5]},
    "eval_probe": {"inverse_l2": [0.1, 10.0], "validation_fraction": 0.25, "max_iterations": 500},
    "eval_retrieval": {"recall_at": [1, 5, 10]},
    "make_tables": {"bootstrap_samples": 200, "confidence": 0.95},
}
CLASSES, WIDTH, TEST, TRAIN, VALIDATION = 8, 12, 120, 160, 90
SIGNALS = {"continued": 0.3, "gradient_ascent": 0.22, "ncu": 0.35}


def unit(rows: npt.NDArray[np.floating]) -> Floats:
    """Rows of length one, float32."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def write_features(path: Path, *, signal: float, seed: int = 0, datasets: Sequence[str] = ("openclipart",)) -> None:
    """Features whose texts point at their pictures with weight `signal` (0: not at all, 1: exactly).

    The pictures' labels, the captions' pictures and all noise are those of `seed`; in each data set every fifth
    picture has no class, every seventh no caption and every third two captions.
    """
    tensors: dict[str, npt.NDArray[np.generic]] = {}
    metadata = {"logit_scale": "100.0"}
    for number, dataset in enumerate(datasets):
        random = np.random.default_rng([seed, number])
        centres = unit(random.normal(size=(CLASSES, WIDTH)))
        for split, count in (("test", TEST), ("train", TRAIN)):
            label = np.arange(count) % CLASSES
            noise = unit(random.normal(size=(count, WIDTH)))
            tensors[f"{dataset}/{split}/image"] = unit(signal * centres[label] + noise)
            tensors[f"{dataset}/{split}/label"] = np.where(np.arange(count) % 5 == 4, -1, label)
        owner = np.array([row for row in range(TEST) if row % 7 for _ in range(2 if row % 3 == 0 else 1)])
        noise = unit(random.normal(size=(len(owner), WIDTH)))
        tensors[f"{dataset}/test/caption"] = unit(
            signal * tensors[f"{dataset}/test/image"][owner] + (1 - signal) * noise
        )
        tensors[f"{dataset}/test/caption_image"] = owner
        tensors[f"{dataset}/class_text"] = unit(centres + (1 - signal) * unit(random.normal(size=centres.shape)))
        metadata |= {
            f"{dataset}/classes": json.dumps([f"class {index}" for index in range(CLASSES)]),
            f"{dataset}/label_hash": f"hash-of-{dataset}",
        }
    random = np.random.default_rng([seed, 99])
    image = unit(random.normal(size=(VALIDATION, WIDTH)))
    tensors["validation/image"] = image
    tensors["validation/text"] = unit(signal * image + (1 - signal) * unit(random.normal(size=image.shape)))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, path, metadata=metadata)


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
    features = FeatureFile(results / "extract_features" / cell / "features.safetensors")
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
    datasets: Sequence[str] = ("openclipart",),
    histories: bool = True,
) -> Path:
    """`results` with features, histories and evaluations of the reference and the methods of `signals`."""
    for seed in seeds:
        for method, signal in {REFERENCE: 0.25, **signals}.items():
            path = results / "extract_features" / method / f"seed{seed}" / "features.safetensors"
            write_features(path, signal=signal, seed=seed, datasets=datasets)
            evaluate(results, method, seed)
        if histories:
            write_histories(results, [REFERENCE, *(m for m in signals if m != REFERENCE)], seed)
    return results
