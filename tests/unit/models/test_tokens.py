from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.models.clip import ClipBundle, create_clip
from pipeline_steps.models.tokens import TextLayout, layout_of, tokenizer_for
from tests.unit.models.architectures import CONTEXT, make
from tests.unit.paths import REPOSITORY

START, END = 49406, 49407
LONG = ["a red dog with a house " * 10, "one green tree on the hill " * 10]


@pytest.fixture(scope="module")
def bundle() -> ClipBundle:
    torch.manual_seed(0)
    bundle = create_clip(str(REPOSITORY / "config/models/smoke_rn.json"))
    bundle.model.eval()
    return bundle


def test_officially_cut_captions_share_the_start_tokens_embedding(bundle: ClipBundle) -> None:
    tokens = tokenizer_for(bundle, "official")(LONG)
    assert END not in tokens
    with torch.inference_mode():
        first, second = bundle.model.encode_text(tokens, normalize=True)
        other = torch.full_like(tokens[:1], 5)
        other[0, 0] = START
        torch.testing.assert_close(first, second)
        torch.testing.assert_close(first, bundle.model.encode_text(other, normalize=True)[0])


def test_keeping_the_end_token_keeps_long_captions_apart(bundle: ClipBundle) -> None:
    tokens = tokenizer_for(bundle, "keep_end")(LONG)
    assert bool((tokens[:, -1] == END).all())
    with torch.inference_mode():
        first, second = bundle.model.encode_text(tokens, normalize=True)
    assert not torch.allclose(first, second, atol=1e-4)


def test_both_ways_agree_on_captions_that_fit(bundle: ClipBundle) -> None:
    captions = ["a dog", "", "Red & GREEN  flags"]
    assert torch.equal(tokenizer_for(bundle, "official")(captions), bundle.tokenizer(captions))


def test_the_official_way_is_refused_for_other_tokenizers(tmp_path: Path) -> None:
    made = make("siglip", tmp_path)
    with pytest.raises(PipelineError, match="truncation = 'official'.*HFTokenizer. Use truncation: keep_end"):
        tokenizer_for(made, "official")
    assert tokenizer_for(made, "keep_end") is made.tokenizer


def test_a_layout_is_asked_from_the_tokenizer(bundle: ClipBundle, tmp_path: Path) -> None:
    assert layout_of(bundle.tokenizer) == TextLayout(1, 16)
    assert layout_of(make("siglip", tmp_path).tokenizer) == TextLayout(0, CONTEXT)
    assert layout_of(make("hugging_face", tmp_path).tokenizer) == TextLayout(1, CONTEXT)
