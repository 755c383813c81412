"""Image-caption pairs as a torch data set, in an order and with an augmentation that only seed and epoch decide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset

from pipeline_steps.core.errors import PipelineError

Batch = tuple[Tensor, Tensor, Tensor]


class PairDataset(Dataset[tuple[int, Tensor, Tensor]]):
    """Row i as (i, image (C, H, W), token ids (L,)), of a table with the columns image_path and caption.

    The random part of `transform` is seeded by (seed, epoch, row), so it does not depend on batch size, workers or
    order. Raises PipelineError naming the picture when one is missing or damaged since the manifest was built.
    """

    def __init__(
        self,
        pairs: pa.Table,
        image_root: Path,
        transform: Callable[[Image.Image], Tensor],
        tokenizer: Callable[[list[str]], Tensor],
        seed: int,
    ) -> None:
        self._paths = pairs["image_path"].combine_chunks()
        self._captions = pairs["caption"].combine_chunks()
        self._root = image_root
        self._transform = transform
        self._tokenizer = tokenizer
        self._seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> tuple[int, Tensor, Tensor]:
        image = read_image(self._root / self._paths[row].as_py())
        with seeded(mixed_seed(self._seed, self.epoch, row)):
            pixels = self._transform(image)
        return row, pixels, self._tokenizer([self._captions[row].as_py()])[0]


class EpochBatches(BatchSampler):
    """Full batches of row numbers, shuffled by (seed, epoch); every pair at most once an epoch, the rest left out."""

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        if batch_size > size:
            raise PipelineError(
                f"training.batch_size = {batch_size} is larger than the {size} training pairs; "
                f"allowed: at most {size}. Lower batch_size, or add pairs."
            )
        self._size, self._batch_size, self._seed = size, batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return self._size // self._batch_size

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(mixed_seed(self._seed, self.epoch))
        order = torch.randperm(self._size, generator=generator).tolist()
        for start in range(0, len(self) * self._batch_size, self._batch_size):
            yield order[start : start + self._batch_size]


def pair_loader(dataset: PairDataset, batches: EpochBatches, workers: int) -> DataLoader[Any]:
    """Batches as (rows (N,), images (N, C, H, W), tokens (N, L))."""
    return DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, pin_memory=torch.cuda.is_available(), collate_fn=_collate
    )


def read_image(path: Path) -> Image.Image:
    """The picture as RGB, transparency on white. Raises PipelineError naming the file when it cannot be read."""
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(image)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
        raise PipelineError(
            f"the picture {path} cannot be read ({error}). It was whole when the manifest was built: "
            "restore it, or run the stage build_manifest again to leave it out."
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB with transparency flattened on white."""
    if image.mode == "RGB":
        return image
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's CPU generator seeded inside the block and as before after it.

    `torch.random.fork_rng` and `torch.manual_seed` do the same for every device and cost twice the decoding.
    """
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def mixed_seed(*parts: int) -> int:
    """One 63-bit seed of several numbers; distinct tuples give seeds that are as good as independent."""
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = (state ^ part) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 31)) * 0x94D049BB133111EB % 2**64
    return (state ^ (state >> 29)) >> 1


def _collate(items: list[tuple[int, Tensor, Tensor]]) -> Batch:
    rows, images, tokens = zip(*items, strict=True)
    return torch.tensor(rows), torch.stack(images), torch.stack(tokens)
