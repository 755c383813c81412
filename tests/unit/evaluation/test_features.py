"""Features in batches equal features one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pipeline_steps.evaluation.features import Encoder
from pipeline_steps.models.clip import ClipBundle, create_clip
from tests.unit.paths import REPOSITORY


@pytest.fixture(scope="module")
def bundle() -> ClipBundle:
    torch.manual_seed(0)
    return create_clip(str(REPOSITORY / "config/models/smoke_rn.json"))


def test_batches_equal_one_by_one_and_are_unit_vectors(bundle: ClipBundle) -> None:
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 255, (40, 30, 3), dtype=np.uint8)) for _ in range(7)]
    texts = [f"number {row}" for row in range(7)]
    encoder = Encoder(bundle, torch.device("cpu"), batch_size=3)
    images, captions = encoder.images(7, lambda row: pictures[row], "test"), encoder.texts(texts)
    with torch.inference_mode():
        for row in range(7):
            image = bundle.model.encode_image(bundle.preprocess(pictures[row])[None], normalize=True)[0]
            text = bundle.model.encode_text(bundle.tokenizer([texts[row]]), normalize=True)[0]
            torch.testing.assert_close(images[row], image, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(captions[row], text, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(images.norm(dim=1), torch.ones(7))


def test_a_class_is_the_normalised_mean_of_its_prompts(bundle: ClipBundle) -> None:
    encoder = Encoder(bundle, torch.device("cpu"), batch_size=4)
    prompts = [["a bird.", "bird"], ["a flag.", "flag", "an old flag"]]
    found = encoder.class_embeddings(prompts)
    for row, group in enumerate(prompts):
        torch.testing.assert_close(found[row], F.normalize(encoder.texts(group).mean(dim=0), dim=0))
