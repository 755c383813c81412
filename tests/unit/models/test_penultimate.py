from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.models.clip import create_clip
from pipeline_steps.models.penultimate import PenultimateReader
from tests.unit.models.architectures import make, write_architecture


@pytest.mark.parametrize("kind", ["clip", "custom_text", "coca", "hugging_face", "timm"])
def test_the_projection_of_what_is_read_is_the_models_own_embedding(kind: str, tmp_path: Path) -> None:
    model = make(kind, tmp_path).model
    size = model.visual.image_size[0]
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        penultimate, projected = PenultimateReader(model)(images)
        torch.testing.assert_close(projected, model.encode_image(images, normalize=False))
        if kind == "timm":
            head = model.visual.trunk.get_classifier()
            torch.testing.assert_close(projected, F.linear(penultimate, head.weight, head.bias))
        else:
            torch.testing.assert_close(projected, penultimate @ model.visual.proj)
    assert penultimate.shape == (3, {"coca": 24, "timm": 192}.get(kind, 32))


@pytest.mark.parametrize(("pool", "projection"), [("token", "linear"), ("avg", "mlp")])
def test_a_timm_tower_with_open_clips_head_is_read_before_it(pool: str, projection: str, tmp_path: Path) -> None:
    path = write_architecture("timm", tmp_path)
    architecture = json.loads(path.read_text())
    architecture["vision_cfg"] |= {"timm_pool": pool, "timm_proj": projection}
    path.write_text(json.dumps(architecture))
    model = create_clip(str(path)).model.eval()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        penultimate, projected = PenultimateReader(model)(images)
        torch.testing.assert_close(projected, model.visual.head(penultimate))
        torch.testing.assert_close(penultimate, model.visual.trunk(images))


@pytest.mark.parametrize(("kind", "tower"), [("resnet", "ModifiedResNet"), ("siglip", "TimmModel with timm's")])
def test_a_tower_without_a_projection_of_its_own_is_refused_by_name(kind: str, tower: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=rf"{tower}.*Take penultimate out of extract_features\.taps"):
        PenultimateReader(make(kind, tmp_path).model)
