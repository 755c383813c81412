"""CLIP models through open_clip: create by architecture, load and save as folders that open_clip itself reads."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import require_free_disk, whole_folder

ImageTransform = Callable[[Image.Image], Tensor]
Tokenizer = Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class ClipBundle:
    """A CLIP or CustomTextCLIP of open_clip with what belongs to it: its tokenizer and its evaluation transform.

    `model_cfg` is open_clip's model configuration; the preprocessing (mean, std, interpolation, resize mode) is in
    `model.visual.preprocess_cfg` and travels with the checkpoint.
    """

    model: Any
    tokenizer: Tokenizer
    preprocess: ImageTransform
    model_cfg: dict[str, Any]

    def train_transform(self, crop_scale_min: float) -> ImageTransform:
        """open_clip's training transform: a random crop of area share [crop_scale_min, 1], resized and normalised."""
        preprocess_cfg = open_clip.transform.PreprocessCfg(**self.model.visual.preprocess_cfg)
        augmentation = open_clip.AugmentationCfg(scale=(crop_scale_min, 1.0))
        transform: ImageTransform = open_clip.transform.image_transform_v2(
            preprocess_cfg, is_train=True, aug_cfg=augmentation
        )
        return transform


def create_clip(architecture: str) -> ClipBundle:
    """A model with fresh weights, of an open_clip architecture name or of a JSON file of open_clip's form.

    Raises PipelineError when the name or the file is not known.
    """
    name = _register(architecture)
    model_cfg = open_clip.get_model_config(name)
    return _bundle(name, model_cfg)


def load_clip(folder: Path, architecture: str | None = None) -> ClipBundle:
    """The checkpoint folder that `save_clip` wrote, strictly; on CPU, in float32.

    Raises PipelineError when a file is missing, cut short, or does not fit its configuration (with the keys), and
    when `architecture` is given and the checkpoint is of another one.
    """
    config_path, weights_path = folder / HF_CONFIG_NAME, folder / HF_SAFE_WEIGHTS_NAME
    try:
        model_cfg = json.loads(config_path.read_text(encoding="utf-8"))["model_cfg"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(f"{config_path} is missing or is not an open_clip configuration: {error!r}") from error
    if architecture is not None:
        _require_same(model_cfg, open_clip.get_model_config(_register(architecture)), folder, architecture)
    if not weights_path.is_file():
        raise PipelineError(f"{weights_path} is missing; run the stage that writes this checkpoint again")
    try:
        return _bundle(f"local-dir:{folder}", model_cfg)
    except SafetensorError as error:
        raise PipelineError(
            f"{weights_path} ({weights_path.stat().st_size:,} bytes) is cut short or damaged: {error}. "
            "Delete the folder and run the stage that writes it again."
        ) from error
    except RuntimeError as error:
        raise PipelineError(
            f"the weights in {folder} do not fit their configuration: {' '.join(str(error).split())}"
        ) from error


def save_clip(folder: Path, bundle: ClipBundle, extra_tensors: dict[str, dict[str, Tensor]] | None = None) -> None:
    """Write the folder that `open_clip.create_model_and_transforms("local-dir:<folder>")` loads.

    `extra_tensors` are further safetensors files, by file name. The folder appears whole or not at all.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in bundle.model.state_dict().items()}
    require_free_disk(folder.parent, 2 * sum(tensor.numel() * tensor.element_size() for tensor in weights.values()))
    config = {"model_cfg": bundle.model_cfg, "preprocess_cfg": _preprocess_cfg(bundle.model)}
    with whole_folder(folder) as partial:
        (partial / HF_CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (partial / HF_SAFE_WEIGHTS_NAME).write_bytes(safetensors.torch.save(weights))
        for name, tensors in (extra_tensors or {}).items():
            detached = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
            (partial / name).write_bytes(safetensors.torch.save(detached))


def best_device() -> torch.device:
    """The first GPU where there is one (CUDA_VISIBLE_DEVICES chooses, or hides it), else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _register(architecture: str) -> str:
    path = Path(architecture)
    if path.suffix == ".json":
        if not path.is_file():
            raise PipelineError(f"model.architecture = {architecture!r}: there is no such file")
        try:
            open_clip.add_model_config(path)
        except ValueError as error:
            raise PipelineError(f"model.architecture = {architecture!r} is not JSON: {error}") from error
        architecture = path.stem
    if open_clip.get_model_config(architecture) is None:
        raise PipelineError(
            f"model.architecture = {architecture!r} is not known to open_clip; allowed are the names that "
            "`open_clip.list_models()` prints and paths of JSON files of open_clip's form (config/models/)"
        )
    return architecture


def _bundle(name: str, model_cfg: dict[str, Any]) -> ClipBundle:
    logging.getLogger("root").setLevel(logging.ERROR)  # open_clip warns of random weights, which are meant here
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    return ClipBundle(model, open_clip.get_tokenizer(name), preprocess, model_cfg)


def _preprocess_cfg(model: Any) -> dict[str, Any]:
    known = dict(model.visual.preprocess_cfg)
    return {key: known[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in known}


def _require_same(found: dict[str, Any], wanted: dict[str, Any], folder: Path, architecture: str) -> None:
    differences = _differences(found, json.loads(json.dumps(wanted)))
    if differences:
        raise PipelineError(
            f"the checkpoint in {folder} is of another architecture than model.architecture = {architecture!r}: "
            + "; ".join(differences)
        )


def _differences(found: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    listed = []
    for key in sorted(found.keys() | wanted.keys()):
        left, right = found.get(key), wanted.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            listed += _differences(left, right, f"{prefix}{key}.")
        elif left != right:
            listed.append(f"{prefix}{key} is {left!r}, wanted {right!r}")
    return listed
