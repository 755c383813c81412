"""Shards in clip-benchmark's layout: made by its converter, read as its builder reads them, here and over http."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_benchmark.datasets.builder import build_dataset
from clip_benchmark.webdataset_builder import convert_dataset, convert_retrieval_dataset
from PIL import Image

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema.datasets import WebdatasetSource
from pipeline_steps.evaluation.datasets import remote
from pipeline_steps.evaluation.datasets.remote import RemoteFolder
from pipeline_steps.evaluation.datasets.source import AbsentError
from pipeline_steps.evaluation.datasets.webdataset import read_webdataset
from tests.unit.data.made_data import picture_bytes, write_tar
from tests.unit.evaluation.datasets import made_sets

SOURCE: dict[str, Any] = {"kind": "webdataset", "place": "{root}/wds", "splits": {"test": "test", "train": "train"}}


class _Pictures(list[tuple[Image.Image, Any]]):
    """What the converter takes: pairs, with names beside them."""

    classes = ("cat", "dog")
    templates = ("a {c}.", "the {c}")


def _pictures(count: int, answers: list[Any]) -> _Pictures:
    return _Pictures((Image.open(io.BytesIO(picture_bytes(n))), answers[n % len(answers)]) for n in range(count))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five test and three train pictures, two a shard."""
    root = tmp_path_factory.mktemp("shards")
    transform = partial(_webp)
    for split, count in (("test", 5), ("train", 3)):
        made = _pictures(count, [1, 0])
        convert_dataset(made, split, str(root / "wds"), transform=transform, max_count=2, verbose=False)
    captions = [["a cat, sitting.", "a pet"], ["one dog"]]
    convert_retrieval_dataset(
        _pictures(3, captions), "test", str(root / "captions"), transform=transform, max_count=2, verbose=False
    )
    return root


def _webp(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "webp", lossless=True)
    return stream.getvalue()


def test_shards_are_read_in_place_as_the_builder_reads_them(shards: Path, tmp_path: Path) -> None:
    row = made_sets.row(n={"test": 5, "train": 3}, sources=[SOURCE], templates="source")
    made = made_sets.prepared(tmp_path / "folder", row, shards)
    assert (made.hole, made.missing) == (None, {})
    assert (made.classes, made.templates) == (_Pictures.classes, _Pictures.templates)
    assert not (tmp_path / "folder" / "pictures.tar").exists()
    for split in ("test", "train"):
        theirs = list(build_dataset("wds/made", root=str(shards / "wds"), split=split, transform=np.asarray))
        ours = made.splits[split]
        assert [int(label) for _, label in theirs] == ours.labels.tolist()
        for number, (picture, _) in enumerate(theirs):
            assert np.array_equal(np.asarray(ours.picture(number)), picture)


def test_captions_are_the_lines_of_a_text_member(shards: Path, tmp_path: Path) -> None:
    source = {**SOURCE, "place": "{root}/captions", "splits": {"test": "test"}}
    made = made_sets.prepared(
        tmp_path / "folder", made_sets.row(tasks=["retrieval"], n={"test": 3}, sources=[source]), shards
    )
    theirs = list(
        build_dataset("wds/made", root=str(shards / "captions"), transform=np.asarray, task="zeroshot_retrieval")
    )
    assert made.splits["test"].captions == [list(captions) for _, captions in theirs]


def test_a_caption_ends_with_its_line_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions" / "dataset_type.txt").write_text("retrieval")
    text = "a cat\u2028on a\x0cmat\r\n\n \na pet\n"
    write_tar(tmp_path / "captions" / "test" / "0.tar", [("a.png", picture_bytes(1)), ("a.txt", text.encode())])
    (tmp_path / "captions" / "test" / "nshards.txt").write_text("1")
    source = {**SOURCE, "place": "{root}/captions", "splits": {"test": "test"}}
    (entry,) = read_webdataset(WebdatasetSource(**source), tmp_path).splits["test"].entries
    assert entry.captions == ["a cat\u2028on a\x0cmat", "a pet"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda wds: (wds / "test" / "1.tar").unlink(),
            r"lacks test/1.tar, and says that there are 3 shards of test",
        ),
        (lambda wds: os.truncate(wds / "test" / "1.tar", 1000), r"the shard .*test/1.tar is damaged"),
        (lambda wds: (wds / "test" / "nshards.txt").write_text("-1"), r"holds '-1'; wanted is the number of shards"),
        (
            lambda wds: write_tar(wds / "test" / "0.tar", [("a.png", picture_bytes(1)), ("a.cls", bytes(2**21))]),
            r"has a.cls of 2,097,152 bytes; a label is smaller",
        ),
        (lambda wds: (wds / "dataset_type.txt").write_text("multilabel\n"), r"is of the type multilabel; allowed"),
        (lambda wds: write_tar(wds / "test" / "0.tar", [("a.cls", b"1")]), r"has no picture or no .cls for a"),
        (
            lambda wds: write_tar(wds / "test" / "0.tar", [("a.png", picture_bytes(1)), ("a.cls", b"-1")]),
            r"has the label '-1' for a",
        ),
        (
            lambda wds: write_tar(wds / "test" / "0.tar", [("a.png", b"x"), ("a.jpg", b"y"), ("a.cls", b"1")]),
            r"has a.jpg or another picture of its key twice",
        ),
    ],
)
def test_damaged_shards_are_a_hole_that_names_them(change: Any, words: str, shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards / "wds", tmp_path / "wds")
    change(tmp_path / "wds")
    with pytest.raises(PipelineError, match=words) as caught:
        list(read_webdataset(WebdatasetSource(**SOURCE), tmp_path).splits["test"].entries)
    assert not isinstance(caught.value, AbsentError)


class _Handler(SimpleHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        fault = self.server.faults.get(self.path)
        if fault == "stall":
            self.server.stalled.set()
            self.server.go_on.wait(30)
        elif isinstance(fault, int) and self.server.asked[self.path] <= 2:
            self.send_error(fault)
            return
        elif fault == "short" and self.server.asked[self.path] == 1:
            self.send_response(200)
            self.send_header("Content-Length", "5000")
            self.end_headers()
            self.wfile.write(b"x" * 600)
            return
        elif fault == "slow":
            self.send_response(200)
            self.end_headers()
            while not self.server.go_on.wait(0.05):
                self.wfile.write(b"x")
            return
        elif fault == "length" and self.server.asked[self.path] == 1:
            self.send_response(200)
            self.send_header("Content-Length", "abc")
            self.end_headers()
            self.wfile.write(Path(self.translate_path(self.path)).read_bytes())
            return
        elif fault == "damaged" and self.server.asked[self.path] == 1:
            self.send_response(200)
            self.send_header("Content-Length", "700")
            self.end_headers()
            self.wfile.write(Path(self.translate_path(self.path)).read_bytes()[:700])
            return
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path, faults: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        self.asked: Counter[str] = Counter()
        self.faults = faults
        self.stalled, self.go_on = threading.Event(), threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


@contextmanager
def _serving(folder: Path, **faults: Any) -> Iterator[tuple[_Server, str]]:
    server = _Server(folder, {f"/{name.replace('__', '/').replace('_tar', '.tar')}": f for name, f in faults.items()})
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
    try:
        yield server, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.go_on.set()
        server.shutdown()
        server.server_close()


def test_remote_shards_are_fetched_once_through_failures_and_kept(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_PAUSE_SECONDS", 0.01)
    with _serving(shards / "wds", test__0_tar=503, test__1_tar="short") as (server, base):
        row = made_sets.row(n={"test": 5, "train": 3}, sources=[{**SOURCE, "place": base}])
        made = made_sets.prepared(tmp_path / "folder", row, tmp_path / "root")
        asked = dict(server.asked)
        assert (asked["/test/0.tar"], asked["/test/1.tar"], asked["/test/2.tar"]) == (3, 2, 1)
    local = made_sets.prepared(tmp_path / "local", made_sets.row(n={"test": 5, "train": 3}, sources=[SOURCE]), shards)
    assert made.splits["test"].content_hash == local.splits["test"].content_hash
    assert made.splits["test"].label_hash == local.splits["test"].label_hash
    assert made.source == f"webdataset: {base}"
    kept = RemoteFolder(base, tmp_path / "root" / "webdataset").kept_in
    assert (kept / "test" / "1.tar").read_bytes() == (shards / "wds" / "test" / "1.tar").read_bytes()
    assert made.splits["test"].picture(4).size == (24, 20)
    assert not list(kept.rglob("*.partial"))


def test_a_slow_answer_ends_in_time_and_a_damaged_shard_is_fetched_again(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(remote, "_TIMEOUT_SECONDS", 0.3)
    splits = {"test": "test"}
    with (
        _serving(shards / "wds", test__0_tar="slow") as (_, base),
        pytest.raises(AbsentError, match="only .* bytes came"),
    ):
        read_webdataset(WebdatasetSource("webdataset", base, splits), tmp_path / "slow")
    with _serving(shards / "wds", test__0_tar="length", test__1_tar="damaged") as (server, base):
        source = WebdatasetSource("webdataset", base, splits)
        with pytest.raises(PipelineError, match=r"test/1.tar was damaged .* and is removed; run the stage again"):
            list(read_webdataset(source, tmp_path).splits["test"].entries)
        assert len(list(read_webdataset(source, tmp_path).splits["test"].entries)) == 5
        assert (server.asked["/test/0.tar"], server.asked["/test/1.tar"]) == (1, 2)


def test_a_killed_download_goes_on_with_the_next_shard(shards: Path, tmp_path: Path) -> None:
    with _serving(shards / "wds", test__1_tar="stall") as (server, base):
        code = (
            "import sys; from pathlib import Path\n"
            "from pipeline_steps.core.schema.datasets import WebdatasetSource as S\n"
            "from pipeline_steps.evaluation.datasets.webdataset import read_webdataset\n"
            f"read_webdataset(S('webdataset', {base!r}, {{'test': 'test'}}), Path({str(tmp_path)!r}))"
        )
        process = subprocess.Popen([sys.executable, "-c", code])
        assert server.stalled.wait(60)
        process.send_signal(signal.SIGKILL)
        process.wait()
        server.faults.clear()
        server.go_on.set()
        found = read_webdataset(WebdatasetSource("webdataset", base, {"test": "test"}), tmp_path)
        assert len(list(found.splits["test"].entries)) == 5
        assert server.asked["/test/0.tar"] == 1
        assert server.asked["/test/1.tar"] == 2
    assert not list((tmp_path / "webdataset").rglob("*.partial"))


def test_a_server_that_fails_or_is_not_there_leaves_the_set_absent(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_PAUSE_SECONDS", 0.01)
    splits = {"test": "test"}
    with _serving(shards / "wds", test__0_tar=401) as (server, base):
        with pytest.raises(AbsentError, match=r"test/0.tar cannot be had \(HTTP 401"):
            read_webdataset(WebdatasetSource("webdataset", base, splits), tmp_path)
        assert server.asked["/test/0.tar"] == 1
        with pytest.raises(AbsentError, match=r"has no other/nshards.txt"):
            read_webdataset(WebdatasetSource("webdataset", base, {"test": "other"}), tmp_path)
    with pytest.raises(AbsentError, match=r"dataset_type.txt cannot be had \(.*refused"):
        read_webdataset(WebdatasetSource("webdataset", base, splits), tmp_path / "elsewhere")
    with pytest.raises(AbsentError, match="is no folder"):
        read_webdataset(WebdatasetSource("webdataset", "{root}/nothing", splits), tmp_path)


def test_the_hubs_pages_are_files_of_a_branch(tmp_path: Path) -> None:
    page = "https://huggingface.co/datasets/clip-benchmark/wds_vtab-caltech101/tree/main"
    folder = RemoteFolder(page, tmp_path)
    assert folder.address == "https://huggingface.co/datasets/clip-benchmark/wds_vtab-caltech101/resolve/main"
    assert folder.kept_in.parent == tmp_path
    readable = "huggingface-co-datasets-clip-benchmark-wds_vtab-caltech101-tree-main-"
    assert folder.kept_in.name.startswith(readable)


def test_every_address_has_a_folder_of_its_own(tmp_path: Path) -> None:
    addresses = [f"{scheme}://host/{name}" for scheme in ("http", "https") for name in ("a/b", "a-b", "a.b")]
    assert len({RemoteFolder(address, tmp_path).kept_in for address in addresses}) == len(addresses)
