"""A transform of pictures in two parts, of which the second takes whole batches."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, Normalize, PILToTensor, ToTensor


class Preprocessing:
    """What a transform does, bit for bit: first picture by picture, then with whole batches, on any device.

    The second part is a transform's last two steps where they are ToTensor and Normalize, as in all of open_clip's, and
    nothing elsewhere.
    """

    def __init__(self, transform: Callable[[Image.Image], Tensor]) -> None:
        self._of_picture, self._normalize = transform, None
        steps = transform.transforms if isinstance(transform, Compose) else []
        if len(steps) >= 2 and isinstance(steps[-2], ToTensor) and isinstance(steps[-1], Normalize):
            self._of_picture, self._normalize = Compose([*steps[:-2], PILToTensor()]), steps[-1]

    def of_picture(self, picture: Image.Image) -> Tensor:
        """(C, H, W): uint8, or float32 where the transform is not divided."""
        pixels: Tensor = self._of_picture(picture)
        return pixels

    def of_batch(self, pixels_NCHW: Tensor) -> Tensor:
        """(N, C, H, W), float32, of pictures that `of_picture` gave."""
        if self._normalize is None:
            return pixels_NCHW
        normalized: Tensor = self._normalize(pixels_NCHW.float().div(255))
        return normalized
