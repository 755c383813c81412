from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from PIL import Image

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.image_check import CHUNK, BadPicture, Picture, check_picture, check_pictures
from pipeline_steps.data.perceptual_hash import perceptual_hash
from pipeline_steps.data.pictures import read_image
from tests.unit.data.made_data import many_scans, write_picture

PIXELS = 10_000


def _cause(path: Path) -> str:
    found = check_picture(path, PIXELS)
    assert isinstance(found, BadPicture)
    assert found.message
    return found.cause


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".avif", ".jp2"])
def test_a_sound_picture_gives_hash_and_size(tmp_path: Path, suffix: str) -> None:
    path = write_picture(tmp_path / f"a{suffix}", 1, (30, 20))
    assert check_picture(path, PIXELS) == Picture(
        hashlib.sha256(path.read_bytes()).hexdigest(), 30, 20, perceptual_hash(read_image(path))
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_every_common_mode_of_colour_is_sound(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    Image.new(mode, (9, 8)).save(path)
    assert isinstance(check_picture(path, PIXELS), Picture)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_picture_cut_short_is_undecodable(tmp_path: Path, suffix: str) -> None:
    path = write_picture(tmp_path / f"a{suffix}", 1, (90, 90))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert _cause(path) == "undecodable"


@pytest.mark.parametrize(
    "content", [b"", b"<html></html>", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_other_bytes_are_undecodable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert _cause(tmp_path / "a.png") == "undecodable"


def test_a_jpeg_of_endless_scans_is_too_large_unread(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(many_scans(100))
    assert isinstance(check_picture(tmp_path / "a.jpg", PIXELS), Picture)
    (tmp_path / "a.jpg").write_bytes(many_scans(101))
    assert _cause(tmp_path / "a.jpg") == "too_large"
    with pytest.raises(PipelineError, match="a JPEG of 101 scans"):
        read_image(tmp_path / "a.jpg")


def test_too_many_pixels_are_seen_in_the_header_and_too_many_bytes_before_it(tmp_path: Path) -> None:
    Image.new("1", (200, 100)).save(tmp_path / "pixels.png")
    header = (tmp_path / "pixels.png").read_bytes()[:50]
    (tmp_path / "header.png").write_bytes(header)
    with (tmp_path / "sparse.png").open("wb") as stream:
        stream.truncate(2**31)
    assert [_cause(tmp_path / f"{name}.png") for name in ("pixels", "header", "sparse")] == ["too_large"] * 3
    assert isinstance(check_picture(tmp_path / "pixels.png", 20_000), Picture)


def test_what_is_no_file_is_missing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dangling.png").symlink_to("nowhere.png")
    assert [_cause(tmp_path / name) for name in ("none.png", "pipe.png", "dangling.png", "")] == ["missing"] * 4


def test_many_pictures_in_two_processes_give_what_one_by_one_gives(tmp_path: Path) -> None:
    for number in range(6):
        write_picture(tmp_path / f"{number}.png", number)
    (tmp_path / "5.png").write_bytes(b"broken")
    for number in range(6, 1200):
        (tmp_path / f"{number}.png").hardlink_to(tmp_path / f"{number % 5}.png")
    paths = [f"{number}.png" for number in range(1201)]
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    found = dict(check_pictures(tmp_path, iter(chunks), total=len(paths), max_image_pixels=PIXELS, processes=2))
    assert list(found) == paths
    assert found == {path: check_picture(tmp_path / path, PIXELS) for path in paths}
    assert sum(isinstance(one, BadPicture) for one in found.values()) == 2
