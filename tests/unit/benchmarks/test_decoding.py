"""The benchmark of decoding compares readers that give the same pictures."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tests.benchmarks.decoding import best_seconds, make_cases, make_pictures
from tests.unit.paths import REPOSITORY


def test_the_readers_give_the_bare_decoders_pixels_and_every_case_is_timed(tmp_path: Path) -> None:
    material = make_pictures(tmp_path, 20, 48, 90)
    assert len(set(material.contents)) == 20
    cases = make_cases(tmp_path, material, str(REPOSITORY / "config/models/openclipart_rn.json"))
    readers = [case for name, case in cases.items() if "Pillow, bytes" in name or "our reader" in name]
    assert len(readers) == 3
    for number in range(20):
        pictures = [reader(number) for reader in readers]
        assert all(isinstance(picture, Image.Image) for picture in pictures)
        assert len({picture.tobytes() for picture in pictures if isinstance(picture, Image.Image)}) == 1
    seconds = best_seconds(cases, 20, 1)
    assert list(seconds) == list(cases)
    assert all(0 < one < 60 for one in seconds.values())
