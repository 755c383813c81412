"""Where the parts of an open_clip model are, for CLIP, CustomTextCLIP, CoCa, and towers of timm and transformers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.models.open_clip_parts import open_clip
from pipeline_steps.models.tokens import TextLayout

_BLOCK_LISTS = ("resblocks", "layer", "layers", "block")
_WITHOUT_START_TOKEN = ("t5", "mt5", "umt5")


def text_tower(clip: nn.Module) -> Any:
    """The module that holds the text encoder's parts: `clip` itself, or `clip.text` of CustomTextCLIP and CoCa."""
    return clip.text if hasattr(clip, "text") else clip


def is_hugging_face(clip: nn.Module) -> bool:
    """Whether the text tower is a model of the library transformers."""
    return hasattr(text_tower(clip), "config") and hasattr(text_tower(clip), "pooler")


def token_embedding(clip: nn.Module) -> nn.Embedding | None:
    """The module that looks tokens up, or None where the tower has none."""
    tower = text_tower(clip)
    if is_hugging_face(clip):
        found = tower.transformer.get_input_embeddings()
    else:
        found = getattr(tower, "token_embedding", None)
    return found if isinstance(found, nn.Embedding) else None


def text_pooling(clip: nn.Module) -> str:
    """How one vector is taken from the text: open_clip's `argmax`, `eos`, `last`, `first`, `none`; else a class name.

    CoCa's class token counts as `last`.
    """
    tower = text_tower(clip)
    if is_hugging_face(clip):
        return type(tower.pooler).__name__
    if getattr(tower, "cls_emb", None) is not None:
        return "last"
    return str(getattr(tower, "text_pool_type", getattr(tower, "pool_type", "none")))


def pad_token(clip: nn.Module) -> int:
    """The id of the tokens that fill a short caption up; -1 where the end token does."""
    tower = text_tower(clip)
    if not is_hugging_face(clip):
        return int(getattr(tower, "pad_id", 0))
    pad = tower.config.pad_token_id
    return -1 if pad is None or pad == tower.config.eos_token_id else int(pad)


def end_token(clip: nn.Module) -> int:
    """The id that pool type `eos` looks for."""
    tower = text_tower(clip)
    return int(getattr(tower, "eos_id", getattr(tower, "text_eos_id", -1)))


def text_layout(clip: nn.Module) -> TextLayout:
    """What the model's tokenizer gave when the model was made; else what its tower lets one expect.

    That is no start token in T5's and SigLIP's towers (bidirectional, pooled at the last position), else one.
    """
    known = getattr(clip, "text_layout", None)
    if isinstance(known, TextLayout):
        return known
    tower = text_tower(clip)
    if is_hugging_face(clip):
        return TextLayout(
            int(tower.config.model_type not in _WITHOUT_START_TOKEN), open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH
        )
    bidirectional = getattr(tower, "attn_mask", None) is None
    return TextLayout(int(not bidirectional or text_pooling(clip) != "last"), int(tower.context_length))


def text_blocks(clip: nn.Module) -> nn.ModuleList | nn.Sequential | None:
    """The text tower's transformer blocks from the input on, or None where they are not known."""
    transformer = getattr(text_tower(clip), "transformer", None)
    holder = getattr(transformer, "encoder", transformer)
    for name in _BLOCK_LISTS:
        found = getattr(holder, name, None)
        if isinstance(found, nn.ModuleList | nn.Sequential):
            return found
    return None


def positional_embedding(clip: nn.Module) -> set[str]:
    """Names of the text tower's positional parameters; empty where it has none that are learned."""
    tower = text_tower(clip)
    if is_hugging_face(clip):
        named = tower.transformer.named_modules()
        tables = [module for name, module in named if name.split(".")[-1] in ("position_embeddings", "embed_positions")]
        return names_of(clip, (parameter for table in tables for parameter in table.parameters()))
    found = getattr(tower, "positional_embedding", None)
    return names_of(clip, [found]) if isinstance(found, nn.Parameter) else set()


def image_projection(clip: Any) -> set[str]:
    """Names of the parameters that map the image tower's width to the embedding; empty where it has no projection.

    A timm tower's is the `head` that open_clip puts on it, or the tower's own classifier where there is none.
    """
    visual = clip.visual
    if hasattr(visual, "trunk"):
        head = list(visual.head.parameters())
        classifier = visual.trunk.get_classifier()
        return names_of(clip, head or (classifier.parameters() if isinstance(classifier, nn.Module) else []))
    if hasattr(visual, "attnpool"):
        return names_of(clip, visual.attnpool.c_proj.parameters())
    if isinstance(getattr(visual, "proj", None), nn.Parameter):
        return names_of(clip, [visual.proj])
    return set()


def names_of(clip: nn.Module, parameters: Iterable[nn.Parameter]) -> set[str]:
    """The names in `clip.named_parameters()` of these parameters."""
    wanted = {id(parameter) for parameter in parameters}
    return {name for name, parameter in clip.named_parameters() if id(parameter) in wanted}


def require_token_embedding(clip: nn.Module) -> nn.Embedding:
    """The module that looks tokens up. Raises PipelineError, with the tower's class, where there is none."""
    found = token_embedding(clip)
    if found is None:
        raise PipelineError(
            f"the text tower {type(text_tower(clip)).__name__} has no token embedding (an nn.Embedding) that a prompt "
            "or a freeze key could reach; choose another model.architecture"
        )
    return found
