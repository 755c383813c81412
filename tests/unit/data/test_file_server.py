from __future__ import annotations

import http.client
import io
import threading
import time
import urllib.error
import urllib.request

import pytest
from PIL import Image

from pipeline_steps.data.file_server import Fault, ServedFile, serving
from tests.unit.data.made_data import picture_bytes

BODY = picture_bytes(1)
PIXELS = 10_000


def _get(fault: Fault | None, *, timeout: float = 5.0) -> bytes:
    with (
        serving([ServedFile(BODY, fault)], slow_seconds=1.0, max_image_pixels=PIXELS) as base,
        urllib.request.urlopen(f"{base}/0", timeout=timeout) as answer,
    ):
        return bytes(answer.read())


def test_a_sound_file_is_served_as_it_is() -> None:
    assert _get(None) == BODY


@pytest.mark.parametrize(("fault", "code"), [("not_found", 404), ("server_error", 500)])
def test_error_answers(fault: Fault, code: int) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        _get(fault)
    assert error.value.code == code


def test_a_truncated_answer_promises_more_than_it_sends() -> None:
    with pytest.raises(http.client.IncompleteRead) as error:
        _get("truncated")
    assert error.value.partial == BODY[: len(BODY) // 2]


def test_a_slow_answer_passes_the_time_out_but_comes() -> None:
    with pytest.raises(TimeoutError):
        _get("slow", timeout=0.2)
    assert _get("slow") == BODY


def test_made_pictures_have_one_pixel_and_too_many_in_few_bytes() -> None:
    assert Image.open(io.BytesIO(_get("one_pixel"))).size == (1, 1)
    absurd = _get("absurd_size")
    width, height = Image.open(io.BytesIO(absurd)).size
    assert width * height > PIXELS
    assert len(absurd) < 1000
    assert _get("html").startswith(b"<!DOCTYPE html>")


@pytest.mark.parametrize("path", ["/1", "/../etc/passwd", "/-1", "/", "/0/x"])
def test_nothing_else_is_served(path: str) -> None:
    with serving([ServedFile(BODY)], slow_seconds=1.0, max_image_pixels=PIXELS) as base:
        connection = http.client.HTTPConnection(base.removeprefix("http://"), timeout=5)
        connection.request("GET", path)
        assert connection.getresponse().status == 404
        connection.close()


def test_the_server_ends_with_its_block_even_when_that_fails_with_an_answer_held_back() -> None:
    before = threading.active_count()
    started = time.monotonic()
    with (
        pytest.raises(RuntimeError),
        serving([ServedFile(BODY, "slow")], slow_seconds=60, max_image_pixels=PIXELS) as base,
    ):
        with pytest.raises(TimeoutError):
            urllib.request.urlopen(f"{base}/0", timeout=0.2)
        raise RuntimeError
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(f"{base}/0", timeout=1)
    assert time.monotonic() - started < 10
    for _ in range(100):
        if threading.active_count() == before:
            break
        time.sleep(0.02)
    assert threading.active_count() == before
