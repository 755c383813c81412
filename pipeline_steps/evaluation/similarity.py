"""Cosines of matched and mismatched pairs on held-out pairs of the training data (the paper's Fig. 5)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.evaluation.features.index import Features, Floats

HARD_SHARE = 0.05
LARGEST_SAMPLE = 4096


def validation_similarities(features: Features, *, largest_sample: int = LARGEST_SAMPLE) -> pd.DataFrame:
    """`pair_similarities` of the validation pairs; of more than `largest_sample`, so many evenly spaced ones."""
    image, text = features.matrix("validation/image"), features.matrix("validation/text")
    if len(image) != len(text) or len(image) < 2:
        raise PipelineError(
            f"{features.path}: validation holds {len(image)} pictures and {len(text)} texts; at least two matched "
            "pairs are needed. Raise build_manifest.validation_fraction and run extract_features again."
        )
    rows = np.linspace(0, len(image) - 1, min(len(image), largest_sample)).round().astype(int)
    return pair_similarities(image[rows], text[rows])


def pair_similarities(image: Floats, text: Floats) -> pd.DataFrame:
    """Three cosines for each of N pictures, from l2-normalised `image` (N, d) and `text` (N, d), N >= 2.

    `matched`: with its own text. `mismatched`: the mean over all other texts. `hard_mismatched`: the mean over the 5%
    of the other texts (at least one) that are nearest to it.
    """
    sim_NN = image.astype(np.float64) @ text.astype(np.float64).T
    n = len(sim_NN)
    matched = np.diagonal(sim_NN).copy()
    mismatched = (sim_NN.sum(axis=1) - matched) / (n - 1)
    np.fill_diagonal(sim_NN, -np.inf)
    hardest = max(1, round(HARD_SHARE * (n - 1)))
    hard = np.partition(sim_NN, n - hardest, axis=1)[:, n - hardest :].mean(axis=1)
    return pd.DataFrame({"matched": matched, "mismatched": mismatched, "hard_mismatched": hard})
