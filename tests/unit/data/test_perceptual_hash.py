from __future__ import annotations

import io
import itertools
from functools import cache

import imagehash
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline_steps.data.perceptual_hash import FLAT, perceptual_hash
from pipeline_steps.data.pictures import to_rgb
from tests.unit.paths import REPOSITORY

COUNT = 300
_UNSIGNED = 2**64 - 1


@cache
def _pictures() -> list[Image.Image]:
    """Bundled pictures, no two of one group of near-duplicates."""
    table = pq.read_table(REPOSITORY / "resources/openclipart/openclipart.parquet", columns=["image", "group"])
    first = dict(zip(reversed(table["group"].to_pylist()), reversed(table["image"].to_pylist()), strict=True))
    chosen = list(first.values())[:: len(first) // COUNT][:COUNT]
    return [to_rgb(Image.open(io.BytesIO(content))) for content in chosen]


def _distance(one: int, other: int) -> int:
    return ((one ^ other) & _UNSIGNED).bit_count()


def _copy(picture: Image.Image, quality: int, scale: float) -> Image.Image:
    size = (round(picture.width * scale), round(picture.height * scale))
    stream = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=quality)
    return to_rgb(Image.open(stream))


@pytest.mark.parametrize(("quality", "scale"), [(95, 1.0), (75, 1.0), (90, 1.37), (85, 4.0)])
def test_a_copy_encoded_again_or_resized_differs_in_few_bits(quality: int, scale: float) -> None:
    hashes = [perceptual_hash(picture) for picture in _pictures()]
    copies = [perceptual_hash(_copy(picture, quality, scale)) for picture in _pictures()]
    distances = np.array([_distance(*both) for both in zip(hashes, copies, strict=True)])
    assert np.mean(distances <= 3) > 0.85
    assert np.mean(distances <= 8) > 0.97


def test_different_pictures_differ_in_many_bits() -> None:
    hashes = [perceptual_hash(picture) for picture in _pictures()]
    distances = np.array([_distance(*both) for both in itertools.combinations(hashes, 2)])
    assert np.mean(distances <= 3) < 1e-4
    assert 20 < np.median(distances) < 40


def test_of_32_by_32_pixels_it_is_imagehashs() -> None:
    for picture in _pictures():
        small = picture.resize((32, 32))
        bits = np.array(imagehash.phash(small).hash)
        assert perceptual_hash(small) == int.from_bytes(np.packbits(bits).tobytes(), "big", signed=True)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (30, 200, 90)])
def test_a_flat_picture_has_the_one_hash_that_says_so(colour: tuple[int, int, int]) -> None:
    flat = Image.new("RGB", (90, 70), colour)
    noise = np.random.default_rng(0).integers(0, 3, (70, 90, 3))
    noisy = Image.fromarray(np.clip(np.asarray(flat).astype(int) - noise, 0, 255).astype(np.uint8))
    assert perceptual_hash(flat) == perceptual_hash(noisy) == perceptual_hash(_copy(flat, 50, 2.0)) == FLAT


def test_a_picture_that_is_not_flat_never_has_it() -> None:
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 255, (9, 40, 3), dtype=np.uint8)) for _ in range(50)]
    dot = Image.new("RGB", (32, 32))
    dot.putpixel((5, 5), (255, 255, 255))
    hashes = [perceptual_hash(picture) for picture in [*pictures, dot]]
    assert all(-(2**63) <= found < FLAT for found in hashes)


def test_thin_and_tiny_pictures_have_a_hash() -> None:
    ramp = Image.linear_gradient("L").convert("RGB")
    for size in ((1, 1), (1, 500), (3000, 2)):
        assert isinstance(perceptual_hash(ramp.resize(size)), int)
