"""A transform in two parts against the transform as a whole."""

from __future__ import annotations

import open_clip
import pytest
import torch
from PIL import Image

from pipeline_steps.data.preprocessing import Preprocessing


def _pictures() -> list[Image.Image]:
    noise = torch.randint(0, 256, (40, 56, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return [Image.fromarray(noise[:rows].numpy()) for rows in (40, 33, 17)]


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_both_parts_give_what_open_clips_transform_gives_bit_for_bit(resize_mode: str, interpolation: str) -> None:
    transform = open_clip.image_transform(32, False, resize_mode=resize_mode, interpolation=interpolation)
    preprocessing, pictures = Preprocessing(transform), _pictures()
    parts = [preprocessing.of_picture(picture) for picture in pictures]
    assert all(part.dtype == torch.uint8 for part in parts)
    assert torch.equal(preprocessing.of_batch(torch.stack(parts)), torch.stack([transform(one) for one in pictures]))


def test_a_transform_of_another_form_stays_whole() -> None:
    def transform(picture: Image.Image) -> torch.Tensor:
        return torch.full((3, 2, 2), float(picture.width))

    preprocessing = Preprocessing(transform)
    pixels = preprocessing.of_picture(_pictures()[0])
    assert torch.equal(preprocessing.of_batch(pixels[None]), torch.full((1, 3, 2, 2), 56.0))
