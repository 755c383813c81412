"""The learnable negative prompt: m vectors after the start token turn a caption into its hardest negative.

Source: NCU paper, Sec. 4.2; m = 8, after the start token, std 0.02 in the official code (hhc1997/NCU at cd338a5).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from pipeline_steps.core.errors import PipelineError

PROMPT_FILE = "negative_prompt.safetensors"


def text_tower(clip: nn.Module) -> Any:
    """The module that holds the text encoder's parts: `clip` itself, or `clip.text` of a CustomTextCLIP."""
    return clip.text if hasattr(clip, "text") else clip


def require_prompt(clip: nn.Module, prompt_vectors: int) -> None:
    """Raise PipelineError before any work when this text tower cannot carry the prompt.

    It must embed tokens, attend causally and pool at the end token (open_clip's pool type `argmax`), and its context
    must hold the start token, the prompt, at least one token and the end token.
    """
    tower = text_tower(clip)
    pool = getattr(tower, "pool_type", getattr(tower, "text_pool_type", None))
    if pool != "argmax" or getattr(tower, "cls_emb", None) is not None:
        raise PipelineError(
            f"this model's text tower ({type(tower).__name__}, pool type {pool!r}) cannot carry the negative prompt; "
            "choose an architecture whose text tower pools at the end token, such as ViT-B-16"
        )
    context_length = tower.positional_embedding.shape[0]
    if prompt_vectors > context_length - 3:
        raise PipelineError(
            f"learn_prompt.prompt_vectors = {prompt_vectors} does not fit context_length = {context_length}; "
            f"allowed: at most {context_length - 3}"
        )


def new_prompt(clip: nn.Module, prompt_vectors: int, std: float, generator: torch.Generator) -> nn.Parameter:
    """A prompt (m, width) drawn from a normal distribution of this standard deviation."""
    width = text_tower(clip).token_embedding.weight.shape[1]
    return nn.Parameter(torch.randn(prompt_vectors, width, generator=generator) * std)


def encode_negative_text(clip: nn.Module, tokens_NL: Tensor, prompt_MW: Tensor) -> Tensor:
    """L2-normalised embeddings t^Neg (N, d) of captions with the prompt placed after their start token.

    `tokens_NL` (N, L) holds token ids with the end token as the largest id of a row (CLIP's tokenizer). A caption
    that no longer fits loses its last tokens but keeps its end token.
    """
    tower = text_tower(clip)
    vectors, context_length = prompt_MW.shape[0], tokens_NL.shape[1]
    end_N = tokens_NL.argmax(dim=1)
    end_token_N = tokens_NL.gather(1, end_N[:, None])
    cut_NK = tokens_NL[:, : context_length - vectors].clone()
    end_N = end_N.clamp(max=cut_NK.shape[1] - 1)
    cut_NK.scatter_(1, end_N[:, None], end_token_N)
    embedded = tower.token_embedding(cut_NK)
    prompt = prompt_MW.to(embedded.dtype).expand(len(embedded), -1, -1)
    x = torch.cat([embedded[:, :1], prompt, embedded[:, 1:]], dim=1) + tower.positional_embedding.to(embedded.dtype)
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask))
    pooled = x[torch.arange(len(x), device=x.device), end_N + vectors]
    projection = tower.text_projection
    if projection is not None:
        pooled = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
    return F.normalize(pooled, dim=-1)


def load_prompt(folder: Path) -> Tensor:
    """The prompt (m, width) of a checkpoint folder. Raises PipelineError when it is missing or damaged."""
    path = folder / PROMPT_FILE
    try:
        return safetensors.torch.load_file(path)["prompt"]
    except (FileNotFoundError, SafetensorError, KeyError) as error:
        raise PipelineError(f"{path} is missing or damaged ({error!r}); run the stage learn_prompt again") from error
