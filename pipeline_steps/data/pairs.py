"""Image-caption pairs as a torch data set, in an order and with an augmentation that only seed and epoch decide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_convert

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.process import ignore_stops
from pipeline_steps.data.pictures import PictureReader
from pipeline_steps.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class Batch:
    """N pairs: rows of the data set (N,), images (N, C, H, W), token ids of the captions (N, L), and those of the
    texts that become hardest negatives where the data set makes them.

    `bank`: for each pair the clean pairs of the nearest image and of the nearest caption, N each, from BankedPairs.
    """

    rows: Tensor
    images: Tensor
    tokens: Tensor
    negative_tokens: Tensor | None = None
    bank: tuple[Batch, Batch] | None = None

    def chunks(self, size: int | None) -> list[Batch]:
        """The batch in its order in parts of at most `size` pairs, without their bank; whole without a size."""
        if size is None or size >= len(self.rows):
            return [self]
        return [self._slice(slice(start, start + size)) for start in range(0, len(self.rows), size)]

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory; the data loader calls this."""
        negative = None if self.negative_tokens is None else self.negative_tokens.pin_memory()
        bank = None if self.bank is None else (self.bank[0].pin_memory(), self.bank[1].pin_memory())
        return Batch(self.rows, self.images.pin_memory(), self.tokens.pin_memory(), negative, bank)

    def _slice(self, part: slice) -> Batch:
        negative = None if self.negative_tokens is None else self.negative_tokens[part]
        return Batch(self.rows[part], self.images[part], self.tokens[part], negative)


class EpochRows(NamedTuple):
    """Which rows of a data set a batch has, and in which epoch, on which their augmentation depends."""

    epoch: int
    rows: list[int]


class PairDataset(Dataset[Batch]):
    """The pairs of a table in batches: images, captions as tokens, and the tokens of their negative texts, if any.

    `pairs` has the columns image_path, image_offset, image_bytes and caption. `negative_text(row, epoch)` gives the
    text that becomes a hardest negative. The random part of `transform` is seeded by (seed, epoch, row), so it does
    not depend on batch size, workers or order. Raises PipelineError naming the picture when one is missing or damaged
    since the manifest was built.
    """

    def __init__(
        self,
        pairs: pa.Table,
        pictures: PictureReader,
        transform: Callable[[Image.Image], Tensor],
        tokenizer: Callable[[list[str]], Tensor],
        seed: int,
        negative_text: Callable[[int, int], str] | None = None,
    ) -> None:
        self._places = [pairs[name] for name in ("image_path", "image_offset", "image_bytes")]
        self._captions = pairs["caption"]
        self._pictures = pictures
        self._preprocessing = Preprocessing(transform)
        self._tokenizer = tokenizer
        self._seed = seed
        self._negative_text = negative_text

    def __len__(self) -> int:
        return len(self._captions)

    def batch(self, wanted: EpochRows) -> Batch:
        """These rows as they are in that epoch."""
        images = torch.stack([self._pixels(wanted.epoch, row) for row in wanted.rows])
        captions = [self._captions[row].as_py() for row in wanted.rows]
        negatives = None
        if self._negative_text is not None:
            negatives = self._tokenizer([self._negative_text(row, wanted.epoch) for row in wanted.rows])
        rows = torch.tensor(wanted.rows)
        return Batch(rows, self._preprocessing.of_batch(images), self._tokenizer(captions), negatives)

    __getitems__ = batch  # the name by which a data loader asks

    def _pixels(self, epoch: int, row: int) -> Tensor:
        image = self._pictures.read(*(column[row].as_py() for column in self._places))
        with seeded(mixed_seed(self._seed, epoch, row)):
            return self._preprocessing.of_picture(image)


class BankedPairs(Dataset[Batch]):
    """The pairs of `pairs`, each with two of `bank`: those in the rows `neighbours` (P, 2) of it."""

    def __init__(self, pairs: PairDataset, bank: PairDataset, neighbours: NDArray[np.int64]) -> None:
        self._pairs, self._bank, self._neighbours = pairs, bank, neighbours

    def __len__(self) -> int:
        return len(self._pairs)

    def batch(self, wanted: EpochRows) -> Batch:
        """These pairs as they are in that epoch, with their bank, in which nothing is random."""
        nearest = self._neighbours[wanted.rows].T.tolist()
        of_image, of_text = (self._bank.batch(EpochRows(0, rows)) for rows in nearest)
        return replace(self._pairs.batch(wanted), bank=(of_image, of_text))

    __getitems__ = batch


Pairs = PairDataset | BankedPairs


class EpochBatches(Sampler[EpochRows]):
    """Row numbers of one process's share of every batch of all epochs, shuffled by (seed, epoch).

    Batches are full; every pair comes at most once an epoch, the rest is left out. `share` is this process's part of
    a batch; `first` is the batch to begin with, counted over all epochs. With `reshuffle` false every epoch has the
    first one's order (as in the official code).
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, *, epochs: int, first: int = 0, share: slice | None = None,
        reshuffle: bool = True,
    ) -> None:  # fmt: skip
        if batch_size > size:
            raise PipelineError(
                f"training.batch_size = {batch_size} is larger than the {size} training pairs; "
                f"allowed: at most {size}. Lower batch_size, or add pairs."
            )
        self._size, self._batch_size, self._seed, self._reshuffle = size, batch_size, seed, reshuffle
        self._share = share or slice(0, batch_size)
        self.epochs, self.first = epochs, first
        self.per_epoch = size // batch_size

    def __len__(self) -> int:
        return self.epochs * self.per_epoch - self.first

    def __iter__(self) -> Iterator[EpochRows]:
        for epoch in range(self.first // self.per_epoch, self.epochs):
            generator = torch.Generator().manual_seed(mixed_seed(self._seed, epoch if self._reshuffle else 0))
            order = torch.randperm(self._size, generator=generator)
            for number in range(max(0, self.first - epoch * self.per_epoch), self.per_epoch):
                start = number * self._batch_size
                yield EpochRows(epoch, order[start + self._share.start : start + self._share.stop].tolist())


def pair_loader(dataset: Pairs, batches: Iterable[EpochRows], workers: int) -> DataLoader[Any]:
    """The batches, each as a Batch, read by so many processes.

    SIGTERM, which Slurm sends to every process of a job, and Ctrl-C end none of them: a last batch may be wanted.
    """
    return DataLoader(
        dataset, num_workers=workers, pin_memory=torch.cuda.is_available(),
        batch_sampler=batches,  # type: ignore[arg-type]  # a batch may be anything that the data set knows
        collate_fn=default_convert, worker_init_fn=ignore_stops,
    )  # fmt: skip


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
