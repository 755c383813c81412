"""CLIP models through open_clip: create by architecture, load and save as folders that open_clip itself reads."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from pipeline_steps.core.architecture import as_allowed, read_architecture, refusal
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import read_json, require_free_disk, whole_folder
from pipeline_steps.core.schema.architecture import Architecture, CheckpointConfig
from pipeline_steps.models.open_clip_parts import bring_parts, open_clip
from pipeline_steps.models.tokens import Tokenizer, is_from_hub, layout_of
from pipeline_steps.models.weight_file import load_strictly, read_weights

__all__ = ["ClipBundle", "ImageTransform", "Tokenizer", "create_clip", "load_clip", "save_clip"]

ImageTransform = Callable[[Image.Image], Tensor]
PROVENANCE_FILE = "provenance.json"
_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
_HUB_ERRORS = (OSError, ImportError, ValueError)
_AGAIN = (
    "Delete the checkpoint's folder and run the stage that writes it again. Weights that are not finite come from a "
    "training that diverged: lower its lr."
)
_CONFIG, _WEIGHTS = open_clip.constants.HF_CONFIG_NAME, open_clip.constants.HF_SAFE_WEIGHTS_NAME


@dataclass(frozen=True)
class ClipBundle:
    """A CLIP, CustomTextCLIP or CoCa of open_clip with what belongs to it: its tokenizer and its evaluation transform.

    `model_cfg` is open_clip's model configuration; the preprocessing (mean, std, interpolation, resize mode) is in
    `model.visual.preprocess_cfg` and travels with the checkpoint, as does `provenance`: where weights that were
    imported come from (source, format, sha256), empty for weights that are trained here.
    """

    model: Any
    tokenizer: Tokenizer
    preprocess: ImageTransform
    model_cfg: dict[str, Any]
    provenance: Mapping[str, str] = field(default_factory=dict)

    def train_transform(self, crop_scale_min: float) -> ImageTransform:
        """open_clip's training transform: a random crop of area share [crop_scale_min, 1], resized and normalised.

        The crop is resized by the checkpoint's interpolation, where open_clip's own always is bicubic. With 1 nothing
        is random: the evaluation transform.
        """
        if crop_scale_min == 1:
            return self.preprocess
        preprocess_cfg = open_clip.transform.PreprocessCfg(**self.model.visual.preprocess_cfg)
        augmentation = open_clip.AugmentationCfg(scale=(crop_scale_min, 1.0))
        transform = open_clip.transform.image_transform_v2(preprocess_cfg, is_train=True, aug_cfg=augmentation)
        if preprocess_cfg.interpolation == "bilinear":
            transform.transforms[0].interpolation = open_clip.transform.InterpolationMode.BILINEAR
        chosen: ImageTransform = transform
        return chosen


def create_clip(architecture: str, preprocess_cfg: Mapping[str, Any] | None = None) -> ClipBundle:
    """A model with fresh weights, of an open_clip architecture name or of a JSON file of open_clip's form.

    `preprocess_cfg` sets any of mean, std, interpolation and resize_mode; open_clip's defaults are OpenAI's. Raises
    PipelineError when the name or the file is not known, and when a tokenizer or a text tower's configuration is
    neither on this machine nor to be had from the Hugging Face hub.
    """
    name = registered_name(architecture)
    bundle = _bundle(name, open_clip.get_model_config(name), preprocess_cfg)
    if hasattr(bundle.model, "text_decoder"):  # open_clip leaves this one as it finds the memory
        projection = bundle.model.text_decoder.text_projection
        torch.nn.init.normal_(projection, std=len(projection) ** -0.5)
    return bundle


def load_clip(folder: Path, architecture: str | None = None) -> ClipBundle:
    """The checkpoint folder that `save_clip` wrote, strictly; on CPU, in float32.

    Raises PipelineError when a file is missing, cut short, or does not fit its configuration (with the keys), and
    when `architecture` is given and the checkpoint is of another one.
    """
    config_path, weights_path = folder / _CONFIG, folder / _WEIGHTS
    config = read_json(config_path, dict[str, Any], _AGAIN)
    as_allowed(config, CheckpointConfig, str(config_path))
    model_cfg: dict[str, Any] = config["model_cfg"]
    if architecture is not None:
        _require_same(model_cfg, open_clip.get_model_config(registered_name(architecture)), folder, architecture)
    if not weights_path.is_file():
        raise PipelineError(f"{weights_path} is missing. {_AGAIN}")
    bundle = _bundle(f"local-dir:{folder}", model_cfg, provenance=_provenance(folder))
    load_strictly(bundle.model, read_weights(weights_path), str(weights_path), _AGAIN)
    return bundle


def save_clip(folder: Path, bundle: ClipBundle, extra_tensors: dict[str, dict[str, Tensor]] | None = None) -> None:
    """Write the folder that `open_clip.create_model_and_transforms("local-dir:<folder>")` loads.

    It holds weights, configuration with preprocessing, provenance where there is one, and the files of a tokenizer
    that is not CLIP's own. `extra_tensors` are further safetensors files, by file name. The folder appears whole or
    not at all.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in bundle.model.state_dict().items()}
    require_free_disk(folder.parent, 2 * sum(tensor.numel() * tensor.element_size() for tensor in weights.values()))
    config = {"model_cfg": bundle.model_cfg, "preprocess_cfg": _preprocess_cfg(bundle.model)}
    with whole_folder(folder) as partial:
        (partial / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (partial / _WEIGHTS).write_bytes(safetensors.torch.save(weights))
        for name, tensors in (extra_tensors or {}).items():
            detached = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
            (partial / name).write_bytes(safetensors.torch.save(detached))
        if bundle.provenance:
            text = json.dumps(dict(bundle.provenance), indent=2, sort_keys=True)
            (partial / PROVENANCE_FILE).write_text(text + "\n", encoding="utf-8")
        if is_from_hub(bundle.tokenizer):
            bundle.tokenizer.save_pretrained(partial)  # type: ignore[attr-defined]


def registered_name(architecture: str) -> str:
    """The name under which open_clip knows this architecture, a JSON file's after it has been read.

    Raises PipelineError when the name or the file is not known.
    """
    path = Path(architecture)
    if path.suffix == ".json":
        _, problems = read_architecture(path)
        if problems:
            raise PipelineError(f"model.architecture = {architecture!r}: {refusal(problems)}")
        open_clip.add_model_config(path)
        architecture = path.stem
    if open_clip.get_model_config(architecture) is None:
        raise PipelineError(
            f"model.architecture = {architecture!r} is not known to open_clip; allowed are the names that "
            "`open_clip.list_models()` prints and paths of JSON files of open_clip's form (config/models/)"
        )
    return architecture


def _bundle(
    name: str,
    model_cfg: dict[str, Any],
    preprocess_cfg: Mapping[str, Any] | None = None,
    provenance: Mapping[str, str] | None = None,
) -> ClipBundle:
    as_allowed(model_cfg, Architecture, name.removeprefix("local-dir:"))
    logging.getLogger("root").setLevel(logging.ERROR)  # open_clip warns of random weights, which are meant here
    bring_parts(model_cfg)
    tokenizer = _tokenizer(name, model_cfg["text_cfg"])
    overrides = {f"image_{key}": value for key, value in (preprocess_cfg or {}).items() if key in _PREPROCESSING}
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            name, pretrained_text=False, load_weights=False, **overrides
        )
    except MemoryError:
        raise
    except _HUB_ERRORS as error:
        wanted = model_cfg["text_cfg"].get("hf_model_name")
        if wanted is None:
            raise _cannot_build(name, error) from error
        raise _not_to_be_had(f"the configuration of the text tower {wanted!r}", "hf_model_name", error) from error
    except Exception as error:
        raise _cannot_build(name, error) from error
    model.text_layout = layout_of(tokenizer)
    return ClipBundle(model, tokenizer, preprocess, model_cfg, provenance or {})


_simple_tokenizers: dict[str, Tokenizer] = {}  # by text_cfg: each would read the vocabulary anew


def _tokenizer(name: str, text_cfg: Mapping[str, Any]) -> Tokenizer:
    wanted, key = text_cfg.get("hf_tokenizer_name"), json.dumps(text_cfg, sort_keys=True)
    if key in _simple_tokenizers:
        return _simple_tokenizers[key]
    try:
        tokenizer: Tokenizer = open_clip.get_tokenizer(name)
        if type(tokenizer) is open_clip.tokenizer.SimpleTokenizer:
            _simple_tokenizers[key] = tokenizer
    except _HUB_ERRORS as error:
        told = f"the tokenizer {wanted!r} of {name!r}"
        raise _not_to_be_had(told, "hf_tokenizer_name", error) from error
    return tokenizer


def _not_to_be_had(what: str, key: str, error: Exception) -> PipelineError:
    if "trust_remote_code" in str(error):
        return PipelineError(f"{what} (text_cfg.{key}) comes with code of its own, and a model is read as data")
    return PipelineError(
        f"{what} (text_cfg.{key}) is neither on this machine nor to be had from the Hugging Face hub "
        f"({_first_line(error)}). Run once where there is a network, or copy the architecture's JSON and let {key} be "
        "a folder with its files."
    )


def _cannot_build(name: str, error: Exception) -> PipelineError:
    return PipelineError(
        f"open_clip cannot build the model {name!r}: {_first_line(error)} ({type(error).__name__}). Compare its "
        "configuration with those in config/models/ and in open_clip's model_configs."
    )


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def _provenance(folder: Path) -> dict[str, str]:
    path = folder / PROVENANCE_FILE
    return read_json(path, dict[str, str], "Run the stage import_reference again.") if path.is_file() else {}


def _preprocess_cfg(model: Any) -> dict[str, Any]:
    known = dict(model.visual.preprocess_cfg)
    return {key: known[key] for key in _PREPROCESSING if key in known}


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
