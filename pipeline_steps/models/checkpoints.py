"""Reference checkpoints from elsewhere: open_clip's, OpenAI's, LaCLIP's, and the official NCU run's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipeline_steps.core.architecture import as_allowed
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import read_json, sha256_of
from pipeline_steps.core.schema import ImportReferenceConfig
from pipeline_steps.core.schema.architecture import Preprocess
from pipeline_steps.models import laclip
from pipeline_steps.models.clip import ClipBundle, create_clip, registered_name
from pipeline_steps.models.open_clip_parts import open_clip
from pipeline_steps.models.prompt import PROMPT_FILE
from pipeline_steps.models.weight_file import Weights, load_strictly, read_weights

OPENAI_PREPROCESS = {
    "mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD, "interpolation": "bicubic"
}  # fmt: skip
_OPEN_CLIPS = "Put the file there that open_clip wrote with the weights, or move the weights to a folder of their own."
_REMEDY = "Choose the model.architecture and import_reference.format that these weights were trained with."


@dataclass(frozen=True)
class ImportedClip:
    """A model with foreign weights. `extra_tensors` go to `save_clip`: the prompt of an NCU run, by file name."""

    bundle: ClipBundle
    extra_tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Format:
    """`convert` maps a file's keys to those of the model; `preprocess` is what the weights were trained with."""

    convert: Callable[[Weights, nn.Module], Weights]
    preprocess: Mapping[str, Any] | None = None
    quick_gelu: bool = False


def import_clip(settings: ImportReferenceConfig, architecture: str) -> ImportedClip:
    """The model `architecture` with the weights that `settings` name, strictly; on CPU, in float32.

    Raises PipelineError for a file that is missing, is not the one of `sha256`, is not data only, or has missing,
    unexpected or misshapen keys (all listed); for an unknown tag; and for weights that were trained with QuickGELU
    where the architecture is not.
    """
    if settings.weights is None:
        raise PipelineError("import_reference.weights is null: name a file, or an open_clip tag with format: tag")
    if settings.format == "tag":
        return _import_tag(settings, settings.weights, architecture)
    path, form = Path(settings.weights), _FORMATS[settings.format]
    provenance = _provenance(settings, _checked_sha256(path, settings.sha256), architecture)
    weights = read_weights(path)
    if form.quick_gelu:
        _require_quick_gelu(architecture, settings.format)
    bundle = create_clip(architecture, form.preprocess or _preprocess_beside(path))
    prompt = weights.pop(laclip.PROMPT_KEY, None) if settings.format == "ncu" else None
    if settings.format == "ncu" and prompt is None:
        raise PipelineError(f"{path} has no {laclip.PROMPT_KEY!r}, so it is no NCU run; use format: laclip")
    load_strictly(bundle.model, form.convert(weights, bundle.model), str(path), _REMEDY)
    extra = {} if prompt is None else {PROMPT_FILE: {"prompt": prompt.float()}}
    return ImportedClip(replace(bundle, provenance=provenance), extra)


def _import_tag(settings: ImportReferenceConfig, tag: str, architecture: str) -> ImportedClip:
    name = registered_name(architecture)
    known = open_clip.pretrained.get_pretrained_cfg(name, tag)
    if not known:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise PipelineError(
            f"import_reference.weights = {tag!r} is no open_clip tag of {architecture!r}; its tags: {tags}"
        )
    if known.get("quick_gelu"):
        _require_quick_gelu(architecture, tag)
    try:
        path = Path(open_clip.pretrained.download_pretrained(known))
    except (OSError, RuntimeError, ValueError) as error:
        raise PipelineError(
            f"the weights of tag {tag!r} are neither on this machine nor to be had "
            f"({next(iter(str(error).splitlines()), type(error).__name__)}). Run once where there is a network, or "
            "give the downloaded file with format: open_clip."
        ) from error
    provenance = _provenance(settings, _checked_sha256(path, settings.sha256), architecture)
    bundle = create_clip(architecture, known)
    try:
        open_clip.load_checkpoint(bundle.model, str(path), strict=True, weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        what = " ".join(str(error).split())
        raise PipelineError(
            f"{path}, the weights of tag {tag!r}, cannot be read: {what}. Delete it, and run again."
        ) from error
    return ImportedClip(replace(bundle, provenance=provenance))


def _open_clip_keys(weights: Weights, model: nn.Module) -> Weights:
    """Older open_clip files name a custom text tower's parts as CLIP's, and differ in the shape of the scale."""
    if hasattr(model, "text"):
        weights = open_clip.model.convert_to_custom_text_state_dict(weights)
        weights.pop("text.transformer.embeddings.position_ids", None)
    own = model.state_dict()
    for name in ("logit_scale", "logit_bias"):
        if name in weights and name in own and weights[name].numel() == own[name].numel():
            weights[name] = weights[name].reshape(own[name].shape)
    return weights


def _laclip_keys(weights: Weights, _model: nn.Module) -> Weights:
    return laclip.open_clip_weights(weights)


def _preprocess_beside(path: Path) -> Mapping[str, Any] | None:
    """The preprocessing of open_clip's configuration where that lies in the weights' folder."""
    config = path.parent / open_clip.constants.HF_CONFIG_NAME
    if not config.is_file():
        return None
    found = read_json(config, dict[str, Any], _OPEN_CLIPS).get("preprocess_cfg", {})
    as_allowed(found, Preprocess, f"{config}: preprocess_cfg")
    return found  # type: ignore[no-any-return]


def _checked_sha256(path: Path, expected: str | None) -> str:
    if path.is_dir():
        raise PipelineError(
            f"import_reference.weights = {str(path)!r} is a folder; name the file of weights in it, "
            "open_clip_model.safetensors in a folder that a training wrote"
        )
    if not path.is_file():
        raise PipelineError(f"import_reference.weights = {str(path)!r}: there is no such file")
    found = sha256_of(path)
    if expected is not None and found != expected:
        raise PipelineError(
            f"{path} is not the file that import_reference.sha256 means: expected {expected}, found {found}. Fetch the "
            "file again, or correct the key."
        )
    return found


def _require_quick_gelu(architecture: str, source: str) -> None:
    if open_clip.get_model_config(registered_name(architecture)).get("quick_gelu"):
        return
    quick = f"{architecture}-quickgelu"
    remedy = f"Use {quick}."
    if quick not in open_clip.list_models():
        remedy = "Name the architecture of these weights, such as ViT-B-32-quickgelu, or a JSON file of your own with "
        remedy += '"quick_gelu": true.'
    raise PipelineError(
        f"weights of {source!r} were trained with QuickGELU, and model.architecture = {architecture!r} computes GELU: "
        f"they would load and embed wrongly. {remedy}"
    )


def _provenance(settings: ImportReferenceConfig, sha256: str, architecture: str) -> dict[str, str]:
    return {
        "source": str(settings.weights),
        "format": settings.format,
        "sha256": sha256,
        "architecture": architecture,
    }


_FORMATS = {
    "open_clip": _Format(_open_clip_keys),
    "openai": _Format(_open_clip_keys, OPENAI_PREPROCESS, quick_gelu=True),
    "laclip": _Format(_laclip_keys, laclip.PREPROCESS, quick_gelu=True),
    "ncu": _Format(_laclip_keys, laclip.PREPROCESS, quick_gelu=True),
}
