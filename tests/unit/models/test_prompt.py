from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.models.clip import ClipBundle, create_clip
from pipeline_steps.models.prompt import encode_negative_text, load_prompt, new_prompt, require_prompt

START, END = 49406, 49407


@pytest.fixture(scope="module")
def bundle() -> ClipBundle:
    torch.manual_seed(0)
    bundle = create_clip("config/models/openclipart_rn.json")
    bundle.model.eval()
    return bundle


def test_a_prompt_of_real_token_embeddings_equals_encoding_the_longer_caption(bundle: ClipBundle) -> None:
    words = bundle.tokenizer(["not a picture of"])[0]
    body = words[1 : int(words.argmax())]
    prompt = bundle.model.token_embedding(body)
    found = encode_negative_text(bundle.model, bundle.tokenizer(["red flag", "green fruit tree"]), prompt)
    expected = bundle.model.encode_text(
        bundle.tokenizer(["not a picture of red flag", "not a picture of green fruit tree"]), normalize=True
    )
    torch.testing.assert_close(found, expected)


def test_a_caption_that_no_longer_fits_loses_tokens_but_keeps_its_end(bundle: ClipBundle) -> None:
    generator = torch.Generator().manual_seed(1)
    prompt = new_prompt(bundle.model, 8, 0.02, generator)
    long = torch.randint(1000, 40000, (1, 32), generator=generator)
    long[0, 0], long[0, -1] = START, END
    other = long.clone()
    other[0, 20] = 7
    cut = torch.zeros_like(long)
    cut[0, :24] = long[0, :24]
    cut[0, 23] = END
    first, second, short = (encode_negative_text(bundle.model, tokens, prompt) for tokens in (long, other, cut))
    assert torch.allclose(first, short, atol=1e-6)
    assert not torch.allclose(first, second, atol=1e-4)


def test_gradient_reaches_the_prompt(bundle: ClipBundle) -> None:
    prompt = new_prompt(bundle.model, 4, 0.02, torch.Generator().manual_seed(0))
    negative = encode_negative_text(bundle.model, bundle.tokenizer(["a dog"]), prompt)
    torch.testing.assert_close(negative.norm(dim=1), torch.ones(1))
    negative[0, 0].backward()
    assert prompt.grad is not None
    assert prompt.grad.norm() > 0


def test_a_custom_text_tower_carries_the_prompt() -> None:
    model = open_clip.CustomTextCLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        text_cfg={"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    ).eval()
    tokens = torch.tensor([[START, 5, 6, END, 0, 0, 0, 0, 0, 0, 0, 0]])
    prompt = model.text.token_embedding(torch.tensor([8, 9]))
    longer = torch.tensor([[START, 8, 9, 5, 6, END, 0, 0, 0, 0, 0, 0]])
    require_prompt(model, 2)
    torch.testing.assert_close(
        encode_negative_text(model, tokens, prompt), F.normalize(model.encode_text(longer), dim=-1)
    )


def test_a_prompt_that_does_not_fit_is_refused_with_the_largest_that_does(bundle: ClipBundle) -> None:
    require_prompt(bundle.model, 29)
    with pytest.raises(
        PipelineError, match="prompt_vectors = 30 does not fit context_length = 32; allowed: at most 29"
    ):
        require_prompt(bundle.model, 30)


def test_a_text_tower_with_another_pooling_is_refused_before_any_work() -> None:
    tower = open_clip.CustomTextCLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        text_cfg={"context_length": 12, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1, "pool_type": "last"},
    )
    with pytest.raises(PipelineError, match="TextTransformer, pool type 'last'.*cannot carry the negative prompt"):
        require_prompt(tower, 2)


def test_a_missing_prompt_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="negative_prompt.safetensors is missing or damaged.*learn_prompt"):
        load_prompt(tmp_path)
