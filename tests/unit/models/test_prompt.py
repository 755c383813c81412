from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.models.clip import ClipBundle, create_clip
from pipeline_steps.models.prompt import PROMPT_FILE, encode_negative_text, load_prompt, new_prompt, require_prompt
from pipeline_steps.models.tokens import tokenizer_for
from pipeline_steps.models.towers import text_tower, token_embedding
from tests.unit.models.architectures import CONTEXT, KINDS, make
from tests.unit.paths import REPOSITORY

START, END = 49406, 49407
PROMPT_WORDS = "the very long"
LONG = "a red dog with blue tree on green house " * 3
VISION = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ClipBundle:
    return make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def bundle() -> ClipBundle:
    torch.manual_seed(0)
    bundle = create_clip(str(REPOSITORY / "config/models/openclipart_rn.json"))
    bundle.model.eval()
    return bundle


def prompt_of_words(bundle: ClipBundle) -> Tensor:
    """The token embeddings of PROMPT_WORDS, which are three tokens for every tokenizer here."""
    start = bundle.model.text_layout.start_tokens
    embedding = token_embedding(bundle.model)
    assert embedding is not None
    return embedding(bundle.tokenizer([PROMPT_WORDS])[0, start : start + 3]).detach()


@pytest.mark.parametrize("caption", ["red flag", "a green tree on the house", "", LONG])
def test_a_prompt_of_words_is_the_longer_caption_cut_before_its_end(made: ClipBundle, caption: str) -> None:
    require_prompt(made.model, 3)
    found = encode_negative_text(made.model, made.tokenizer([caption, "dog"]), prompt_of_words(made))
    expected = made.model.encode_text(
        made.tokenizer([f"{PROMPT_WORDS} {caption}", f"{PROMPT_WORDS} dog"]), normalize=True
    )
    torch.testing.assert_close(found, expected)
    assert found.dtype == torch.float32


def test_the_prompt_matters_and_words_that_no_longer_fit_do_not(made: ClipBundle) -> None:
    prompt = new_prompt(made.model, 4, 0.5, torch.Generator().manual_seed(0))
    tokens = made.tokenizer([LONG])
    changed_late, changed_early = tokens.clone(), tokens.clone()
    changed_late[0, CONTEXT - 3], changed_early[0, 3] = tokens[0, 2], tokens[0, 5]
    base, late, early = (encode_negative_text(made.model, t, prompt) for t in (tokens, changed_late, changed_early))
    torch.testing.assert_close(base, late)
    assert not torch.allclose(base, early, atol=1e-4)
    assert not torch.allclose(base, encode_negative_text(made.model, tokens, -prompt), atol=1e-4)


def test_gradient_reaches_the_prompt_and_the_text_tower_but_no_placeholder(made: ClipBundle) -> None:
    prompt = new_prompt(made.model, 4, 0.5, torch.Generator().manual_seed(0))
    tokens = made.tokenizer(["a dog"])
    made.model.zero_grad()
    negative = encode_negative_text(made.model, tokens, prompt)
    torch.testing.assert_close(negative.norm(dim=1), torch.ones(1))
    negative[0, 0].backward()
    assert prompt.grad is not None
    assert bool((prompt.grad.norm(dim=1) > 0).all())
    embedding = token_embedding(made.model)
    assert embedding is not None
    assert embedding.weight.grad is not None
    rows = set(embedding.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist())
    assert rows
    assert rows <= set(tokens.flatten().tolist())


def test_the_model_is_left_without_a_hook(made: ClipBundle) -> None:
    tokens = made.tokenizer(["red flag"])
    before = made.model.encode_text(tokens, normalize=True)
    encode_negative_text(made.model, tokens, torch.ones_like(prompt_of_words(made)))
    assert torch.equal(made.model.encode_text(tokens, normalize=True), before)


def test_official_truncation_loses_the_end_token_of_captions_that_do_not_fit(bundle: ClipBundle) -> None:
    prompt = new_prompt(bundle.model, 8, 0.02, torch.Generator().manual_seed(1))
    captions = [f"{first} dog with a red house on the very long green tree and a flag on a tree with a dog on a house"
                for first in ("blue", "green")]  # fmt: skip
    tokens = tokenizer_for(bundle, "official")(captions)
    assert bool((tokens.max(dim=1).values == END).all()), "these captions fit without the prompt"
    lost = encode_negative_text(bundle.model, tokens, prompt, "official")
    kept = encode_negative_text(bundle.model, tokens, prompt, "keep_end")
    torch.testing.assert_close(lost[0], lost[1])
    assert not torch.allclose(kept[0], kept[1], atol=1e-4)
    short = tokenizer_for(bundle, "official")(["a dog"])
    ways = [encode_negative_text(bundle.model, short, prompt, way) for way in ("official", "keep_end")]  # type: ignore[arg-type]
    assert torch.equal(*ways)


def test_towers_that_no_tokenizer_described_are_judged_by_their_structure() -> None:
    clip = open_clip.CustomTextCLIP(embed_dim=16, vision_cfg=VISION, text_cfg=TEXT).eval()
    prompt = clip.text.token_embedding(torch.tensor([8, 9]))
    tokens = torch.tensor([[START, 5, 6, END, 0, 0, 0, 0, 0, 0, 0, 0]])
    longer = torch.tensor([[START, 8, 9, 5, 6, END, 0, 0, 0, 0, 0, 0]])
    require_prompt(clip, 2)
    torch.testing.assert_close(
        encode_negative_text(clip, tokens, prompt), F.normalize(clip.encode_text(longer), dim=-1)
    )
    by_eos = {**TEXT, "pool_type": "eos", "eos_id": 7}
    clip = open_clip.CustomTextCLIP(embed_dim=16, vision_cfg=VISION, text_cfg=by_eos).eval()
    full = torch.tensor([[START, 5, 6, 4, 4, 4, 4, 4, 4, 4, 4, 7]])
    cut = torch.tensor([[START, 8, 9, 5, 6, 4, 4, 4, 4, 4, 4, 7]])
    prompt = clip.text.token_embedding(torch.tensor([8, 9]))
    torch.testing.assert_close(encode_negative_text(clip, full, prompt), F.normalize(clip.encode_text(cut), dim=-1))


def test_a_prompt_that_does_not_fit_is_refused_with_the_largest_that_does(bundle: ClipBundle) -> None:
    require_prompt(bundle.model, 29)
    with pytest.raises(
        PipelineError, match="prompt_vectors = 30 does not fit context_length = 32; allowed: at most 29"
    ):
        require_prompt(bundle.model, 30)


def test_a_tower_that_gives_no_single_vector_is_refused() -> None:
    clip = open_clip.CustomTextCLIP(embed_dim=16, vision_cfg=VISION, text_cfg={**TEXT, "pool_type": "none"})
    with pytest.raises(PipelineError, match="TextTransformer, pool type 'none'.*cannot carry the negative prompt"):
        require_prompt(clip, 2)


def test_a_tower_without_a_token_embedding_is_refused() -> None:
    clip = open_clip.CustomTextCLIP(embed_dim=16, vision_cfg=VISION, text_cfg=TEXT)
    clip.text.token_embedding = nn.Identity()
    with pytest.raises(PipelineError, match="TextTransformer has no token embedding"):
        require_prompt(clip, 2)


@pytest.mark.parametrize(
    ("lookup", "message"),
    [
        (lambda tower, text: F.embedding(text, tower.table.weight), "looked its tokens up 0 times"),
        (lambda tower, text: tower.table(text) + tower.table(text), "looked its tokens up 2 times"),
        (lambda tower, text: tower.table(text.flatten()).view(*text.shape, -1), r"in shape \(12, 16\)"),
    ],
)
def test_a_tower_that_looks_tokens_up_in_its_own_way_is_refused_before_any_work(lookup: object, message: str) -> None:
    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token_embedding = self.table = nn.Embedding(100, 16)
            self.context_length, self.pool_type, self.attn_mask = 12, "first", torch.zeros(12, 12)

        def forward(self, text: Tensor) -> Tensor:
            return lookup(self, text)[:, 0]  # type: ignore[operator]

    clip = open_clip.CustomTextCLIP(embed_dim=16, vision_cfg=VISION, text_cfg=TEXT)
    clip.text = Tower()
    with pytest.raises(PipelineError, match=f"Tower.*{message}"):
        require_prompt(clip, 2)
    assert text_tower(clip) is clip.text


def test_the_check_before_any_work_draws_no_random_number(made: ClipBundle) -> None:
    made.model.train()
    state = torch.get_rng_state()
    require_prompt(made.model, 2)
    made.model.eval()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_missing_prompt_and_one_of_another_width_are_named(bundle: ClipBundle, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="negative_prompt.safetensors is missing or damaged.*learn_prompt"):
        load_prompt(tmp_path)
    save_file({"prompt": torch.zeros(8, 64)}, tmp_path / PROMPT_FILE)
    assert load_prompt(tmp_path).shape == (8, 64)
    with pytest.raises(PipelineError, match=r"has shape \(8, 64\); this model's tokens are 128 wide"):
        load_prompt(tmp_path, bundle.model)
