"""What no picture needs, and what would cost memory or time without end: more bytes, and more scans."""

from __future__ import annotations

MOST_PIXELS = 178_956_970  # Pillow's own ceiling
_LARGEST_PIXEL_BYTES = 8
_METADATA_BYTES = 16 * 2**20
_MOST_SCANS = 100  # encoders of progressive JPEGs make about ten; each costs a pass over the whole picture
_START_OF_SCAN = b"\xff\xda"  # within a scan's own bytes 0xff is followed by 0 or a restart


def largest_bytes(pixels: int) -> int:
    """The most bytes that a picture of so many pixels can have."""
    return pixels * _LARGEST_PIXEL_BYTES + _METADATA_BYTES


def too_many_scans(content: bytes) -> str | None:
    """What is wrong with the bytes of a JPEG of more scans than any encoder makes; None for every other picture."""
    if not content.startswith(b"\xff\xd8"):
        return None
    scans = content.count(_START_OF_SCAN)
    return f"too large: a JPEG of {scans} scans, of at most {_MOST_SCANS}" if scans > _MOST_SCANS else None
