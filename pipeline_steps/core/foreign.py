"""What a file from elsewhere is, by its first bytes: said before anybody is told what to do with it."""

from __future__ import annotations

from pathlib import Path

ZIP = "a zip archive"
PARQUET = "a parquet file"
_LONGEST = 512
_POINTER = b"version https://git-lfs.github.com/"
_BEGINNINGS = (
    (b"\x1f\x8b", "compressed by gzip; gunzip it"),
    (b"BZh", "compressed by bzip2; bunzip2 it"),
    (b"\xfd7zXZ\0", "compressed by xz; unxz it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstandard; unzstd it"),
    (b"PK\x03\x04", ZIP),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"PAR1", PARQUET),
    (b"%PDF", "a PDF document"),
    (b"<?xml", "XML"),
)  # fmt: skip
_PAGE = (b"<!doctype html", b"<html", b"<head")


def told_by_first_bytes(path: Path) -> str | None:
    """What a file plainly is, with what to do where it is a stand-in for another; None where that cannot be told."""
    size = path.stat().st_size
    if not size:
        return "an empty file; fetch it again"
    with path.open("rb") as stream:
        first = stream.read(_LONGEST)
    if first.startswith(_POINTER):
        return f"a git-lfs pointer of {size} bytes and not the file itself; fetch that with `git lfs pull`"
    if first.lstrip().lower().startswith(_PAGE):
        return f"a web page of {size:,} bytes and not the file itself; fetch that, where a server wants it with a login"
    for beginning, what in _BEGINNINGS:
        if first.startswith(beginning):
            return what
    return "an uncompressed tar archive" if first[257:262] == b"ustar" else None
