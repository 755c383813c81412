"""The learnable negative prompt: m vectors after the start token turn a caption into its hardest negative.

Placeholder tokens take the prompt's places, the model encodes the text itself, and a hook on its token embedding puts
the prompt's vectors in their place; so positions, masks, pooling and projection are the tower's own.
Source: NCU paper, Sec. 4.2; m = 8, after the start token, std 0.02 in the official code (hhc1997/NCU at cd338a5).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.models.tokens import Truncation
from pipeline_steps.models.towers import (
    end_token,
    is_hugging_face,
    pad_token,
    require_token_embedding,
    text_layout,
    text_pooling,
    text_tower,
)

PROMPT_FILE = "negative_prompt.safetensors"
_POOLED = ("argmax", "eos", "last", "first")


def require_prompt(clip: Any, prompt_vectors: int) -> None:
    """Raise PipelineError before any work when this text tower cannot carry a prompt of so many vectors.

    It must look tokens up in an embedding module, give one vector per text, and have room for its start token, the
    prompt, at least one token and the end token. The last check encodes one text with a prompt.
    """
    embedding = require_token_embedding(clip)
    tower, pooling = type(text_tower(clip)).__name__, text_pooling(clip)
    if not is_hugging_face(clip) and pooling not in _POOLED:
        raise PipelineError(
            f"this model's text tower ({tower}, pool type {pooling!r}) gives no single vector per text, so it cannot "
            f"carry the negative prompt; choose an architecture of a pool type among {', '.join(_POOLED)}"
        )
    layout = text_layout(clip)
    most = layout.context_length - layout.start_tokens - 2
    if prompt_vectors > most:
        raise PipelineError(
            f"learn_prompt.prompt_vectors = {prompt_vectors} does not fit context_length = {layout.context_length}; "
            f"allowed: at most {most}"
        )
    device = embedding.weight.device
    tokens_NL = torch.full((1, layout.context_length), _placeholder(clip), device=device)
    with torch.random.fork_rng(), torch.no_grad():
        encode_negative_text(clip, tokens_NL, torch.zeros(prompt_vectors, embedding.embedding_dim, device=device))


def new_prompt(clip: nn.Module, prompt_vectors: int, std: float, generator: torch.Generator) -> nn.Parameter:
    """A prompt (m, width) drawn from a normal distribution of this standard deviation."""
    width = require_token_embedding(clip).embedding_dim
    return nn.Parameter(torch.randn(prompt_vectors, width, generator=generator) * std)


def encode_negative_text(
    clip: Any, tokens_NL: Tensor, prompt_MW: Tensor, truncation: Truncation = "keep_end"
) -> Tensor:
    """L2-normalised embeddings t^Neg (N, d), float32, of captions with the prompt placed after their start token.

    `tokens_NL` (N, L) holds token ids of the model's tokenizer; where that sets no start token the prompt stands
    first. A caption that no longer fits loses its last tokens but keeps its end token; under `official`
    truncation the end token goes too. Raises PipelineError when the tower does not look tokens up as (N, L, width).
    """
    vectors, start = prompt_MW.shape[0], text_layout(clip).start_tokens
    cut_NK = _cut(clip, tokens_NL, vectors, truncation)
    placeholder_NM = cut_NK.new_full((len(cut_NK), vectors), _placeholder(clip))
    tokens_NL = torch.cat([cut_NK[:, :start], placeholder_NM, cut_NK[:, start:]], dim=1)
    with _prompt_in_place(clip, prompt_MW, start):
        text_ND: Tensor = clip.encode_text(tokens_NL, normalize=True)
    return text_ND.float()


def load_prompt(folder: Path, clip: nn.Module | None = None) -> Tensor:
    """The prompt (m, width) of a checkpoint folder.

    Raises PipelineError when it is missing or damaged, or is not as wide as the token embedding of `clip`.
    """
    path = folder / PROMPT_FILE
    try:
        prompt_MW = safetensors.torch.load_file(path)["prompt"]
    except (FileNotFoundError, SafetensorError, KeyError) as error:
        raise PipelineError(f"{path} is missing or damaged ({error!r}); run the stage learn_prompt again") from error
    if clip is not None and prompt_MW.shape[1:] != (require_token_embedding(clip).embedding_dim,):
        raise PipelineError(
            f"the prompt in {path} has shape {tuple(prompt_MW.shape)}; this model's tokens are "
            f"{require_token_embedding(clip).embedding_dim} wide. Run the stage learn_prompt for this model."
        )
    return prompt_MW


def _placeholder(clip: nn.Module) -> int:
    """An ordinary token: special ids stand at either end of a vocabulary."""
    middle = require_token_embedding(clip).num_embeddings // 2
    return next(token for token in range(middle, 0, -1) if token not in (pad_token(clip), end_token(clip)))


def _cut(clip: nn.Module, tokens_NL: Tensor, vectors: int, truncation: Truncation) -> Tensor:
    cut_NK = tokens_NL[:, : tokens_NL.shape[1] - vectors].clone()
    if truncation == "official":
        return cut_NK
    end_N = _end_positions(clip, tokens_NL)
    end_token_N = tokens_NL.gather(1, end_N[:, None])
    return cut_NK.scatter_(1, end_N.clamp(max=cut_NK.shape[1] - 1)[:, None], end_token_N)


def _end_positions(clip: nn.Module, tokens_NL: Tensor) -> Tensor:
    """Position (N,) of each caption's end token: where the tower pools, else before the padding."""
    pooling = text_pooling(clip)
    if pooling == "argmax":
        return tokens_NL.argmax(dim=1)
    if pooling == "eos":
        return (tokens_NL == end_token(clip)).int().argmax(dim=1)
    positions_L = torch.arange(tokens_NL.shape[1], device=tokens_NL.device)
    last_N = torch.where(tokens_NL != pad_token(clip), positions_L, 0).amax(dim=1)
    same_NL = tokens_NL == tokens_NL.gather(1, last_N[:, None])
    different_before_NL = ~same_NL & (positions_L <= last_N[:, None])
    # SigLIP's first tokenizer pads with its end token: the first of that run is the end.
    return torch.where(different_before_NL, positions_L + 1, 0).amax(dim=1)


@contextmanager
def _prompt_in_place(clip: nn.Module, prompt_MW: Tensor, start: int) -> Iterator[None]:
    """While it is open, every text's token embedding has the prompt at positions [start, start + m)."""
    calls = 0

    def put(_module: nn.Module, _inputs: tuple[Any, ...], embedded_NLW: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if embedded_NLW.ndim != 3:
            raise PipelineError(
                f"{_named(clip)} looks tokens up in shape {tuple(embedded_NLW.shape)}, not (N, L, width)"
            )
        prompt_NMW = prompt_MW.to(embedded_NLW.dtype).expand(len(embedded_NLW), -1, -1)
        return torch.cat([embedded_NLW[:, :start], prompt_NMW, embedded_NLW[:, start + len(prompt_MW) :]], dim=1)

    handle = require_token_embedding(clip).register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()
    if calls != 1:
        raise PipelineError(
            f"{_named(clip)} looked its tokens up {calls} times for one text instead of once, so the negative prompt "
            "has no place in it; choose another model.architecture"
        )


def _named(clip: nn.Module) -> str:
    return f"this model's text tower ({type(text_tower(clip)).__name__})"
