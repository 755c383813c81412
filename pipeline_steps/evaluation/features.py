"""Embeddings for every evaluation, computed once per checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from pipeline_steps.core.schema import DatasetRow
from pipeline_steps.data.manifest import TRAINING_COLUMNS, image_root, validation_rows
from pipeline_steps.data.pictures import PictureReader
from pipeline_steps.evaluation.datasets import EvaluationSplit, class_prompts, read_split
from pipeline_steps.models.clip import ClipBundle

Arrays = dict[str, NDArray[np.generic]]


class Encoder:
    """Batched, l2-normalised embeddings of a CLIP model in evaluation mode. Images per call are bounded by batches."""

    def __init__(self, bundle: ClipBundle, device: torch.device, batch_size: int) -> None:
        self._model = bundle.model.to(device).eval()
        self._preprocess = bundle.preprocess
        self._tokenizer = bundle.tokenizer
        self._device = device
        self._batch_size = batch_size

    @torch.inference_mode()
    def images(self, count: int, image_at: Callable[[int], Image.Image], title: str) -> Tensor:
        """(count, d) for the pictures that `image_at(row)` gives."""
        parts = []
        for start in tqdm(range(0, count, self._batch_size), desc=title, unit="batch", mininterval=5.0):
            rows = range(start, min(start + self._batch_size, count))
            pixels = torch.stack([self._preprocess(image_at(row)) for row in rows]).to(self._device)
            parts.append(self._model.encode_image(pixels, normalize=True).float().cpu())
        return torch.cat(parts)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """(len(texts), d)."""
        parts = [
            self._model.encode_text(
                self._tokenizer(list(texts[start : start + self._batch_size])).to(self._device), normalize=True
            )
            .float()
            .cpu()
            for start in range(0, len(texts), self._batch_size)
        ]
        return torch.cat(parts)

    def class_embeddings(self, prompts: Sequence[Sequence[str]]) -> Tensor:
        """(C, d): for each class the normalised mean of its prompts' embeddings (Radford et al. 2021, Sec. 3.1.4)."""
        flat = self.texts([prompt for group in prompts for prompt in group])
        groups = torch.split(flat, [len(group) for group in prompts])
        return F.normalize(torch.stack([group.mean(dim=0) for group in groups]), dim=-1)


def dataset_features(encoder: Encoder, name: str, row: DatasetRow) -> tuple[Arrays, dict[str, str]]:
    """Arrays and metadata of one set: images and labels of both splits, class embeddings, captions of the test split.

    `<name>/test/caption_image` is the row in `<name>/test/image` that a caption belongs to.
    """
    arrays: Arrays = {f"{name}/class_text": encoder.class_embeddings(class_prompts(row)).numpy()}
    for part, split_name in (("test", row.test_split), ("train", row.train_split)):
        split = read_split(row, split_name)
        images = encoder.images(len(split.images), split.image, f"{name} {part}")
        arrays[f"{name}/{part}/image"] = images.numpy()
        arrays[f"{name}/{part}/label"] = np.asarray(split.labels, dtype=np.int64)
        if part == "test":
            arrays |= _captions(encoder, name, split)
            metadata = {f"{name}/label_hash": split.label_hash(), f"{name}/classes": json.dumps(list(row.classes))}
    return arrays, metadata


def validation_features(encoder: Encoder, pairs: Path) -> Arrays:
    """Images and captions of the manifest's held-out split, matched row by row."""
    table, pictures = validation_rows(pairs, TRAINING_COLUMNS), PictureReader(image_root(pairs))
    places = [table[name] for name in ("image_path", "image_offset", "image_bytes")]

    def image(row: int) -> Image.Image:
        return pictures.read(*(column[row].as_py() for column in places))

    images = encoder.images(table.num_rows, image, "validation")
    return {"validation/image": images.numpy(), "validation/text": encoder.texts(table["caption"].to_pylist()).numpy()}


def _captions(encoder: Encoder, name: str, split: EvaluationSplit) -> Arrays:
    rows = [row for row, caption in enumerate(split.captions) if caption]
    texts = encoder.texts([split.captions[row] for row in rows])
    return {f"{name}/test/caption": texts.numpy(), f"{name}/test/caption_image": np.asarray(rows, dtype=np.int64)}
