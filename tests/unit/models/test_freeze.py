"""The table of what trains, by phase of the official code."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import open_clip
import pytest
import torch
from torch import nn

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import FreezeConfig
from pipeline_steps.models.clip import ClipBundle, create_clip
from pipeline_steps.models.freeze import apply_freeze, frozen_text_blocks, set_training_mode
from pipeline_steps.models.towers import token_embedding
from tests.unit.models.architectures import KINDS, make

NOTHING = {"image_tower": False, "image_projection": False, "text_tower": False, "token_embedding": False,
           "positional_embedding": False, "text_blocks": 0}  # fmt: skip
OFFICIAL_PHASE_1 = NOTHING | {"image_tower": True}
OFFICIAL_PHASE_2 = NOTHING | {"positional_embedding": True, "text_blocks": 5}


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    return open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16},
        text_cfg={"context_length": 12, "vocab_size": 100, "width": 16, "heads": 2, "layers": 6},
    )


@pytest.mark.parametrize(
    ("settings", "name", "trains"),
    [
        (NOTHING, "visual.conv1.weight", True),
        (OFFICIAL_PHASE_1, "visual.conv1.weight", False),
        (OFFICIAL_PHASE_1, "visual.transformer.resblocks.1.ln_1.weight", False),
        (OFFICIAL_PHASE_1, "visual.proj", True),
        (OFFICIAL_PHASE_1 | {"image_projection": True}, "visual.proj", False),
        (OFFICIAL_PHASE_1, "token_embedding.weight", True),
        (OFFICIAL_PHASE_1, "transformer.resblocks.0.ln_1.weight", True),
        (OFFICIAL_PHASE_1, "logit_scale", True),
        (OFFICIAL_PHASE_2, "visual.conv1.weight", True),
        (OFFICIAL_PHASE_2, "positional_embedding", False),
        (OFFICIAL_PHASE_2, "token_embedding.weight", True),
        (OFFICIAL_PHASE_2 | {"token_embedding": True}, "token_embedding.weight", False),
        (OFFICIAL_PHASE_2, "transformer.resblocks.4.mlp.c_fc.weight", False),
        (OFFICIAL_PHASE_2, "transformer.resblocks.5.mlp.c_fc.weight", True),
        (OFFICIAL_PHASE_2, "ln_final.weight", True),
        (OFFICIAL_PHASE_2, "text_projection", True),
        (NOTHING | {"text_tower": True}, "ln_final.weight", False),
        (NOTHING | {"text_tower": True}, "visual.conv1.weight", True),
    ],
)
def test_what_trains(vit: nn.Module, settings: dict[str, bool | int], name: str, trains: bool) -> None:
    trained = apply_freeze(vit, FreezeConfig(**settings))  # type: ignore[arg-type]
    assert name in dict(vit.named_parameters())
    assert (name in trained) is trains
    assert dict(vit.named_parameters())[name].requires_grad is trains


def test_a_frozen_convolutional_tower_keeps_its_statistics_and_may_train_its_projection() -> None:
    model = create_clip("config/models/openclipart_rn.json").model
    freeze = FreezeConfig(**OFFICIAL_PHASE_1)  # type: ignore[arg-type]
    trained = apply_freeze(model, freeze)
    assert [name for name in trained if name.startswith("visual.")] == [
        "visual.attnpool.c_proj.weight",
        "visual.attnpool.c_proj.bias",
    ]
    set_training_mode(model, freeze)
    assert not any(module.training for module in model.visual.modules())
    assert model.transformer.training
    assert frozen_text_blocks(model) == 2


Bundles = Callable[[str], ClipBundle]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """A kind's bundle, made once; tests change no more of it than what trains."""
    return cache(lambda kind: make(kind, tmp_path_factory.mktemp(kind)))


@pytest.fixture(params=KINDS)
def made(request: pytest.FixtureRequest, bundles: Bundles) -> ClipBundle:
    return bundles(request.param)


BLOCK = re.compile(r"(?:resblocks|encoder\.layer|transformer\.block)\.(\d+)\.")


def freeze(**settings: bool | int) -> FreezeConfig:
    return FreezeConfig(**(NOTHING | settings))  # type: ignore[arg-type]


def trains(bundle: ClipBundle, **settings: bool | int) -> set[str]:
    return set(apply_freeze(bundle.model, freeze(**settings)))


def test_blocks_embeddings_and_towers_freeze_wherever_they_are(made: ClipBundle) -> None:
    everything = trains(made)
    assert frozen_text_blocks(made.model) == 3
    text = {name for name in everything if not name.startswith(("visual.", "logit_"))}
    frozen = everything - trains(made, text_blocks=2)
    assert frozen
    assert frozen < text
    in_block = {name: int(found[1]) for name in text if (found := BLOCK.search(name))}
    assert set(in_block.values()) == {0, 1, 2}
    assert frozen == {name for name, block in in_block.items() if block < 2}
    (table,) = everything - trains(made, token_embedding=True)
    assert made.model.get_parameter(table) is token_embedding(made.model).weight  # type: ignore[union-attr]
    assert everything - trains(made, text_tower=True) == text
    assert everything - trains(made, image_tower=True, image_projection=True) == {
        name for name in everything if name.startswith("visual.")
    }
    assert trains(made) == everything


def test_everything_that_trains_gets_a_gradient_and_nothing_else_would(made: ClipBundle) -> None:
    trained = trains(made)
    for parameter in made.model.parameters():
        parameter.requires_grad = True
    made.model.zero_grad()
    size = made.model.visual.image_size
    images = torch.randn(2, 3, *(size if isinstance(size, tuple) else (size, size)))
    tokens = made.tokenizer(["a red flag", "a dog"])
    embedded = made.model.encode_image(images, normalize=True), made.model.encode_text(tokens, normalize=True)
    (embedded[0] @ embedded[1].T * made.model.logit_scale.exp()).pow(2).sum().backward()
    with_gradient = {name for name, parameter in made.model.named_parameters() if parameter.grad is not None}
    assert with_gradient == trained - {"logit_bias"}


PROJECTIONS = {
    "clip": {"visual.proj"},
    "custom_text": {"visual.proj"},
    "coca": {"visual.proj"},
    "timm": {"visual.trunk.head.weight", "visual.trunk.head.bias"},
    "hugging_face": {"visual.proj"},
    "resnet": {"visual.attnpool.c_proj.weight", "visual.attnpool.c_proj.bias"},
}


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_the_image_projection_is_its_own_part(kind: str, bundles: Bundles) -> None:
    bundle = bundles(kind)
    everything = trains(bundle)
    assert everything - trains(bundle, image_projection=True) == PROJECTIONS[kind]
    left = {name for name in trains(bundle, image_tower=True) if name.startswith("visual.")}
    assert left == PROJECTIONS[kind]


def test_a_part_that_the_model_does_not_have_is_refused_by_name(bundles: Bundles) -> None:
    siglip = bundles("siglip")
    with pytest.raises(PipelineError, match="freeze.image_projection .*TimmModel.* no image projection"):
        trains(siglip, image_projection=True)
    assert not any(name.startswith("visual.") for name in trains(siglip, image_projection=True, image_tower=True))
    with pytest.raises(PipelineError, match="freeze.positional_embedding .*HFTextEncoder.* no positional embedding"):
        trains(bundles("mt5"), positional_embedding=True)
    with pytest.raises(PipelineError, match="freeze.text_blocks .* no 4 text blocks; allowed: 0 to 3"):
        trains(siglip, text_blocks=4)


def test_positional_embeddings_are_found(bundles: Bundles) -> None:
    for kind, name in (
        ("clip", "positional_embedding"),
        ("siglip", "text.positional_embedding"),
        ("hugging_face", "text.transformer.embeddings.position_embeddings.weight"),
    ):
        bundle = bundles(kind)
        assert trains(bundle) - trains(bundle, positional_embedding=True) == {name}


def test_cocas_decoder_never_trains(bundles: Bundles) -> None:
    bundle = bundles("coca")
    names = {name for name, _ in bundle.model.named_parameters()}
    assert names - trains(bundle) == {name for name in names if name.startswith("text_decoder.")}


def test_positions_that_the_architecture_fixes_stay_fixed() -> None:
    clip = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16,
                    "pos_embed_type": "sin_cos_2d"},
        text_cfg={"context_length": 12, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1},
    )  # fmt: skip
    for settings in (freeze(image_tower=True), freeze()):
        assert "visual.positional_embedding" not in apply_freeze(clip, settings)
        assert not clip.visual.positional_embedding.requires_grad


def test_asking_what_trains_leaves_statistics_modes_and_random_state_alone(tmp_path: Path) -> None:
    bundle = make("resnet", tmp_path)
    bundle.model.train()
    before = {name: tensor.clone() for name, tensor in bundle.model.state_dict().items()}
    state = torch.get_rng_state()
    trains(bundle)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in bundle.model.state_dict().items())
    assert all(module.training for module in bundle.model.modules())
    assert all(parameter.grad is None for parameter in bundle.model.parameters())
