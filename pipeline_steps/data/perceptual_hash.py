"""A picture's 64-bit perceptual hash: copies of a picture, re-encoded or resized, differ in few of its bits."""

from __future__ import annotations

import numpy as np
from PIL import Image

FLAT = 0
_SIDE, _FREQUENCIES = 32, 8
_FLAT_GREY_LEVELS = 8
# Cosine transform of type II, its lowest frequencies.
_COSINES_FS = np.cos(np.pi / _SIDE * np.outer(np.arange(_FREQUENCIES), np.arange(_SIDE) + 0.5))


def perceptual_hash(picture: Image.Image) -> int:
    """The pHash of an RGB picture as a signed 64-bit number; FLAT for one whose hash would say nothing.

    Grey, 32 x 32 pixels, cosine transform, which of the 8 x 8 lowest frequencies are above their median (Zauner 2010,
    "Implementation and benchmarking of perceptual image hash functions", Sec. 3.2); of the 32 x 32 pixels it is
    `imagehash.phash` bit for bit. Where those are all within 8 of 256 grey levels, rounding and noise would decide the
    bits: such a picture gets FLAT, which no other picture has (the first bit, the mean's, is set in all others).
    """
    # ImageHash shrinks by a Lanczos filter, which at 512 pixels costs as much as decoding; averaging whole squares of
    # pixels first leaves copies as near.
    small = picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    grey_SS = np.asarray(small)
    if int(grey_SS.max()) - int(grey_SS.min()) < _FLAT_GREY_LEVELS:
        return FLAT
    spectrum_FF = _COSINES_FS @ grey_SS @ _COSINES_FS.T
    middle = np.sort(spectrum_FF, axis=None)[31:33].mean()
    return int.from_bytes(np.packbits(spectrum_FF > middle).tobytes(), "big", signed=True)
