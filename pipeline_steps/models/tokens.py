"""Tokenizers: what they put around a caption, and what becomes of one that is too long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.models.open_clip_parts import open_clip

Tokenizer = Callable[[list[str]], Tensor]
Truncation = Literal["keep_end", "official"]


@dataclass(frozen=True)
class TextLayout:
    """How a caption's token ids (L,) are laid out: `start_tokens` (0 or 1) before its own, `context_length` = L."""

    start_tokens: int
    context_length: int


class _HasTokenizer(Protocol):
    @property
    def tokenizer(self) -> Tokenizer: ...


class OfficialTokenizer:
    """CLIP's tokenizer as the official code cuts long captions: the end token goes with the rest.

    Under argmax pooling such captions are embedded at their start token, which sees nothing of them: they all share
    one embedding (hhc1997/NCU at cd338a5).
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, texts: list[str]) -> Tensor:
        """Token ids (N, L), padded with zeros."""
        inner = self._tokenizer
        tokens_NL = torch.zeros(len(texts), inner.context_length, dtype=torch.long)
        for row, text in enumerate(texts):
            tokens = [inner.sot_token_id, *inner.encode(text), inner.eot_token_id][: inner.context_length]
            tokens_NL[row, : len(tokens)] = torch.tensor(tokens)
        return tokens_NL


def tokenizer_for(bundle: _HasTokenizer, truncation: Truncation) -> Tokenizer:
    """The tokenizer for training: the bundle's own, which keeps the end token of a long caption, or the official way.

    Raises PipelineError for `official` with any other tokenizer than CLIP's byte-pair encoding.
    """
    if truncation == "keep_end":
        return bundle.tokenizer
    tokenizer = bundle.tokenizer
    if not isinstance(tokenizer, open_clip.tokenizer.SimpleTokenizer) or tokenizer.reduction_fn is not None:
        raise PipelineError(
            f"training.truncation = 'official' is how the official code cuts the captions of CLIP's tokenizer; this "
            f"model has {type(tokenizer).__name__}. Use truncation: keep_end."
        )
    return OfficialTokenizer(tokenizer)


def layout_of(tokenizer: Tokenizer) -> TextLayout:
    """Ask a tokenizer: captions of different first words share their first token where it sets a start token."""
    tokens_NL = tokenizer(["a", "the", "dog"])
    shared = bool((tokens_NL[:, 0] == tokens_NL[0, 0]).all())
    return TextLayout(int(shared), tokens_NL.shape[1])


def is_from_hub(tokenizer: Tokenizer) -> bool:
    """Whether this is a Hugging Face tokenizer, whose files a checkpoint folder must hold."""
    return isinstance(tokenizer, open_clip.tokenizer.HFTokenizer)
