"""Pictures as RGB, out of files and out of byte ranges of tar shards."""

from __future__ import annotations

import hashlib
import io
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.picture_limits import too_many_scans

# Formats that Pillow decodes itself; its EPS reader, for one, would start another program.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
_OPEN_SHARDS = 256


class PictureReader:
    """Reads the pictures of a manifest, whose paths start from `root`.

    Of the tar shards the `open_shards` used last stay open. Every process has its own: a copy made by pickling
    starts with none, and reads name their place, so a copy made by forking does not move the parent's. `stage` is the
    one that found the pictures whole, for the error.
    """

    def __init__(self, root: Path, *, open_shards: int = _OPEN_SHARDS, stage: str = "build_manifest") -> None:
        self._root = os.fspath(root)
        self._stage = stage
        self._limit = open_shards
        self._open: OrderedDict[str, BinaryIO] = OrderedDict()

    def read(
        self, image_path: str, offset: int | None = None, size: int | None = None, sha256: str | None = None
    ) -> Image.Image:
        """The picture in the file `image_path`, or in its `size` bytes from `offset` on where it is a tar shard.

        Mode RGB, transparency on white. Raises PipelineError naming the file, and the place in a shard, when the
        picture cannot be read, or when `sha256` is given and is not that of its bytes.
        """
        path = f"{self._root}/{image_path}"
        if offset is None or size is None:
            return read_image(path, self._stage, sha256)
        try:
            return _decoded(self._range(path, offset, size), sha256)
        except (OSError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
            raise PipelineError(
                f"the picture in the {size} bytes from {offset} on of the shard {path} cannot be read ({error}). It "
                f"was whole when {self._stage} ran: restore the shard as it was, or run the stage {self._stage} again."
            ) from error

    def close(self) -> None:
        """Close the shards that are open; the next read opens its own again."""
        while self._open:
            self._open.popitem()[1].close()

    def __getstate__(self) -> dict[str, Any]:
        return {"_root": self._root, "_stage": self._stage, "_limit": self._limit, "_open": OrderedDict()}

    def _range(self, path: str, offset: int, size: int) -> bytes:
        if path in self._open:
            self._open.move_to_end(path)
        else:
            while len(self._open) >= self._limit:
                self._open.popitem(last=False)[1].close()
            self._open[path] = open(path, "rb", buffering=0)  # noqa: PTH123, SIM115 - stays open; Path costs time
        content = os.pread(self._open[path].fileno(), size, offset)
        if len(content) < size:
            raise OSError(f"the file ends after {len(content)} of these bytes")
        return content


def read_image(path: Path | str, stage: str = "build_manifest", sha256: str | None = None) -> Image.Image:
    """The picture as RGB, transparency on white.

    Raises PipelineError naming the file when it cannot be read, or when `sha256` is given and is not that of its bytes.
    """
    try:
        with open(path, "rb", buffering=0) as stream:  # noqa: PTH123 - Path costs time
            return _decoded(stream.read(), sha256)
    except (OSError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
        raise PipelineError(
            f"the picture {path} cannot be read ({error}). It was whole when {stage} ran: "
            f"restore it, or run the stage {stage} again."
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB with transparency flattened on white, and 16 bits of grey brought to 8.

    Raises ValueError for pictures of floats or 32-bit numbers, whose white nothing says.
    """
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise ValueError("its pixels are floats or 32-bit numbers, and nothing says which is white; store 8 or 16 bits")
    if image.mode.startswith("I"):  # convert() would cut everything above 255 off
        grey = np.asarray(image)
        clear = grey == image.info.get("transparency", -1)
        return Image.fromarray(np.where(clear, 255, grey >> 8).astype(np.uint8)).convert("RGB")
    transparent = "A" in image.getbands() or "transparency" in image.info
    if image.mode == "RGB" and not transparent:
        return image
    if transparent:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def decode_image(content: bytes) -> Image.Image:
    """Encoded bytes as RGB, transparency on white. Raises what Pillow's decoders raise: nearly anything."""
    if told := too_many_scans(content):
        raise ValueError(told)
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:  # Pillow's own words hold an address in memory
        raise UnidentifiedImageError(f"cannot identify these bytes; read are {', '.join(FORMATS)}") from None
    image.load()
    return to_rgb(image)


def _decoded(content: bytes, sha256: str | None) -> Image.Image:
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError("its bytes have changed")
    return decode_image(content)
