from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.image_check import BadPicture, check_bytes
from pipeline_steps.data.tar_shards import Broken, Sample, read_shard
from tests.unit.data.made_data import picture_bytes, sample, write_tar

PIXELS = 10_000
Members = list[tuple[str, bytes]]


def _read(path: Path, members: Members) -> tuple[list[Sample], list[Broken]]:
    return read_shard(write_tar(path, members), "caption", PIXELS)


def _causes(broken: list[Broken]) -> list[tuple[str, str]]:
    assert all(one.message for one in broken)
    return [(one.key, one.cause) for one in broken]


def test_every_pair_is_found_with_the_place_of_its_bytes(tmp_path: Path) -> None:
    members = [member for number in (2, 0, 1) for member in sample(number, form=("jpg", "png", "webp")[number])]
    samples, broken = _read(tmp_path / "a.tar", members)
    content = (tmp_path / "a.tar").read_bytes()
    assert broken == []
    assert [(one.key, one.caption) for one in samples] == [
        (f"{number:09d}", f"caption {number}") for number in range(3)
    ]
    expected = [picture_bytes(number, form=form) for number, form in enumerate(("JPEG", "PNG", "WEBP"))]
    assert [content[one.offset : one.offset + one.size] for one in samples] == expected
    assert [one.picture for one in samples] == [check_bytes(picture, PIXELS) for picture in expected]


def test_names_follow_the_rule_of_webdataset(tmp_path: Path) -> None:
    picture = picture_bytes(1)
    names = ["./a/b.c/x.JPG", "a/b.c/x.txt", "y.jpeg", "y.txt", "y.json", "y.cls", "y.seg.png", ".hidden.jpg", "readme"]
    samples, broken = _read(
        tmp_path / "a.tar", [(name, picture if "." in name and name[-1] in "Gg" else b"5") for name in names]
    )
    assert [(one.key, one.caption) for one in samples] == [("a/b.c/x", "5"), ("y", "5")]
    assert broken == []


@pytest.mark.parametrize(
    ("texts", "caption"),
    [
        ([("txt", b"first"), ("json", b'{"caption": "second"}')], "first"),
        ([("json", b'{"caption": "second"}'), ("txt", "Übergröße".encode())], "Übergröße"),
        ([("json", json.dumps({"caption": "猫", "url": "u"}).encode())], "猫"),
        ([("json", b'{"caption": null}')], ""),
        ([("txt", b"")], ""),
    ],
)
def test_a_caption_is_the_text_or_else_the_field(tmp_path: Path, texts: Members, caption: str) -> None:
    samples, broken = _read(
        tmp_path / "a.tar", [("k.webp", picture_bytes(1)), *((f"k.{form}", text) for form, text in texts)]
    )
    assert ([one.caption for one in samples], broken) == ([caption], [])


@pytest.mark.parametrize(
    ("members", "cause"),
    [
        ([], "picture_without_caption"),
        ([("k.json", b'{"text": "x", "url": "u"}')], "picture_without_caption"),
        ([("k.json", b"[1]")], "picture_without_caption"),
        ([("k.txt", b"\xff\xfe")], "unreadable_caption"),
        ([("k.txt", b"x" * 2**21)], "unreadable_caption"),
        ([("k.json", b'{"caption": ')], "unreadable_caption"),
        ([("k.json", b'{"caption": "\\ud800"}')], "unreadable_caption"),
        ([("k.json", b'{"caption": ["x"]}')], "unreadable_caption"),
        ([("k.json", b"[" * 200_000)], "unreadable_caption"),
    ],
)
def test_a_picture_whose_caption_is_missing_or_no_text_is_broken(tmp_path: Path, members: Members, cause: str) -> None:
    samples, broken = _read(tmp_path / "a.tar", [("k.webp", picture_bytes(1)), *members, *sample(5)])
    assert [one.key for one in samples] == [f"{5:09d}"]
    assert _causes(broken) == [("k", cause)]


def test_a_missing_field_is_named_with_those_there_are(tmp_path: Path) -> None:
    _, broken = _read(tmp_path / "a.tar", [("k.webp", picture_bytes(1)), ("k.json", b'{"text": "x", "url": "u"}')])
    assert "'caption' (it has 'text', 'url')" in broken[0].message


def test_captions_without_picture_duplicates_and_bad_pictures_are_named(tmp_path: Path) -> None:
    members = [
        ("a.txt", b"alone"),
        *sample(1),
        *sample(2),
        *sample(1, "again"),
        ("bad.jpg", b"no picture"),
        ("bad.txt", b"x"),
    ]
    samples, broken = _read(tmp_path / "a.tar", members)
    assert [(one.key, one.caption) for one in samples] == [
        (f"{1:09d}", "caption 1"),
        (f"{2:09d}", "caption 2"),
        ("bad", "x"),
    ]
    assert isinstance(samples[2].picture, BadPicture)
    assert samples[2].picture.cause == "undecodable"
    assert _causes(broken) == [
        (f"{1:09d}", "duplicate_key"), (f"{1:09d}", "duplicate_key"), ("a", "caption_without_picture"),
    ]  # fmt: skip


def test_members_with_other_endings_are_counted_and_named(tmp_path: Path) -> None:
    """As webdataset has it, a key ends at the first dot, and what is not asked for by its ending is not there."""
    members = [*sample(1), (f"{1:09d}.cls", b"3")]
    members += [("a.input.jpg", b"x"), ("a.outputs.txt", b"x"), ("b.txt", b"x"), ("b.seg.png", b"x"), ("c.npy", b"x")]
    samples, broken = _read(tmp_path / "a.tar", members)
    assert [one.key for one in samples] == [f"{1:09d}"]
    assert _causes(broken) == [("a", "other_endings"), ("b", "caption_without_picture"), ("c", "other_endings")]
    for one, named in zip(broken, ("it has input.jpg, outputs.txt", "it has seg.png", "it has npy"), strict=True):
        assert one.message.endswith(named)


def test_a_picture_too_large_is_not_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("k.png")
        member.size = 2**25
        tar.addfile(member, io.BytesIO(bytes(2**25)))
        text = tarfile.TarInfo("k.txt")
        tar.addfile(text)
    samples, _ = read_shard(tmp_path / "a.tar", "caption", PIXELS)
    assert samples[0].picture == BadPicture("too_large", f"{2**25} bytes")


def test_a_shard_cut_at_any_byte_gives_its_whole_pairs_and_is_named(tmp_path: Path) -> None:
    members = [member for number in range(3) for member in sample(number)]
    whole, _ = _read(tmp_path / "whole.tar", members)
    content = (tmp_path / "whole.tar").read_bytes()
    end = len(content.rstrip(b"\0"))
    cut = tmp_path / "cut.tar"
    seen = set()
    for size in [*range(0, end, 97), *range(0, end, 512)]:
        cut.write_bytes(content[:size])
        samples, broken = read_shard(cut, "caption", PIXELS)
        assert samples == whole[: len(samples)]
        assert [one.cause for one in broken].count("truncated_shard") == 1, size
        assert {one.cause for one in broken} <= {"truncated_shard", "picture_without_caption"}
        seen.add(len(samples))
    assert seen == {0, 1, 2}


def test_other_bytes_in_the_middle_are_damage_and_what_was_before_stays(tmp_path: Path) -> None:
    members = [member for number in range(3) for member in sample(number)]
    whole, _ = _read(tmp_path / "a.tar", members)
    content = bytearray((tmp_path / "a.tar").read_bytes())
    header = whole[1].offset - 512
    content[header : header + 512] = b"\x7f" * 512
    (tmp_path / "a.tar").write_bytes(content)
    samples, broken = read_shard(tmp_path / "a.tar", "caption", PIXELS)
    assert samples == whole[:1]
    assert _causes(broken) == [("", "damaged_shard")]


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08" + b"x" * 2000, b"<html></html>" * 100])
def test_what_is_no_tar_is_damage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    samples, broken = read_shard(tmp_path / "a.tar", "caption", PIXELS)
    assert samples == []
    assert _causes(broken) == [("", "damaged_shard")]


@pytest.mark.parametrize("size", [-1024, -(2**70), 2**70])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, b"Z"])
def test_a_header_of_an_absurd_size_ends_the_reading(tmp_path: Path, size: int, kind: bytes) -> None:
    path = write_tar(tmp_path / "a.tar", sample(1))
    member = tarfile.TarInfo("loop.webp")
    member.size, member.type = size, kind
    header = member.tobuf(tarfile.GNU_FORMAT)
    content = path.read_bytes()
    end = len(content.rstrip(b"\0")) + 511 & ~511
    path.write_bytes(content[:end] + header + content[end:])
    samples, broken = read_shard(path, "caption", PIXELS)
    assert [one.key for one in samples] == [f"{1:09d}"]
    assert [cause in ("damaged_shard", "truncated_shard") for _, cause in _causes(broken)] == [True]


def test_links_and_folders_are_no_pictures(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE), ("folder.png", tarfile.DIRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
            text = tarfile.TarInfo(name.replace("png", "txt"))
            tar.addfile(text)
    samples, broken = read_shard(tmp_path / "a.tar", "caption", PIXELS)
    assert samples == []
    assert {cause for _, cause in _causes(broken)} == {"caption_without_picture"}


def test_a_shard_that_cannot_be_opened_stops_the_step(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="none.tar cannot be read"):
        read_shard(tmp_path / "none.tar", "caption", PIXELS)


def test_headers_inside_headers_without_end_are_damage(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 512
    block = header.tobuf(tarfile.GNU_FORMAT) + b"x" * 512
    (tmp_path / "a.tar").write_bytes(block * 3000)
    samples, broken = read_shard(tmp_path / "a.tar", "caption", 10**6)
    assert samples == []
    assert [one.cause for one in broken] == ["damaged_shard"]
