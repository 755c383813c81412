"""Embeddings of one checkpoint, in batches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema.evaluation import Tap
from pipeline_steps.data.preprocessing import Preprocessing
from pipeline_steps.models.clip import load_clip
from pipeline_steps.models.penultimate import PenultimateReader

Rows = NDArray[np.float32]


class Encoder:
    """A checkpoint in evaluation mode on `device`; texts go through it `batch_size` at a time.

    Raises PipelineError, naming the checkpoint, when `taps` has penultimate and its image tower has no such place, and
    later when an embedding is not finite.
    """

    def __init__(self, folder: Path, device: torch.device, *, batch_size: int, taps: Sequence[Tap]) -> None:
        self._folder = folder
        bundle = load_clip(folder)
        self._model = bundle.model.to(device).eval()
        if device.type == "cpu":
            self._model.to(memory_format=torch.channels_last)  # convolutions are 1.5 times as fast
        self._tokenizer = bundle.tokenizer
        self._device = device
        self._batch_size = batch_size
        self._reader: PenultimateReader | None = None
        self.preprocessing = Preprocessing(bundle.preprocess)
        preprocess_cfg: Any = bundle.model.visual.preprocess_cfg
        self.preprocess_cfg = json.dumps(preprocess_cfg, sort_keys=True, default=str)
        if "penultimate" in taps:
            try:
                self._reader = PenultimateReader(self._model)
            except PipelineError as error:
                raise PipelineError(f"extract_features.taps asks for penultimate of {folder}, and {error}") from error

    @property
    def logit_scale(self) -> float:
        """s = 1/tau of the checkpoint."""
        return float(self._model.logit_scale.detach().exp())

    @torch.inference_mode()
    def images(self, pixels_NCHW: Tensor, taps: Sequence[Tap]) -> dict[Tap, Rows]:
        """For each tap (N, d), as the tower gives it; `pixels_NCHW` are preprocessed and on the encoder's device."""
        if "penultimate" not in taps:
            return {"projected": self._rows(self._model.encode_image(pixels_NCHW, normalize=False))}
        if self._reader is None:
            raise ValueError("this encoder was made without the tap penultimate")
        penultimate, projected = self._reader(pixels_NCHW)
        found: dict[Tap, Rows] = {"penultimate": self._rows(penultimate), "projected": self._rows(projected)}
        return {tap: found[tap] for tap in taps}

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Rows:
        """(len(texts), d), as the tower gives it."""
        starts = range(0, len(texts), self._batch_size)
        tokens = (self._tokenizer(list(texts[start : start + self._batch_size])) for start in starts)
        return np.concatenate(
            [self._rows(self._model.encode_text(part.to(self._device), normalize=False)) for part in tokens]
        )

    def classes(self, prompts: Sequence[Sequence[str]]) -> Rows:
        """(C, d): for each class the mean of its prompts' normalised embeddings (Radford et al. 2021, Sec. 3.1.4)."""
        rows = self.texts([prompt for group in prompts for prompt in group])
        groups = torch.split(F.normalize(torch.from_numpy(rows), dim=-1), [len(group) for group in prompts])
        means: Rows = torch.stack([group.mean(dim=0) for group in groups]).numpy()
        return means

    def _rows(self, embeddings: Tensor) -> Rows:
        rows: Rows = embeddings.float().cpu().numpy()
        if not np.isfinite(rows).all():
            raise PipelineError(
                f"{self._folder} gives embeddings that are not finite: its training has diverged. Train it again with "
                "a lower learning rate, or take its method out of `methods`."
            )
        return rows
