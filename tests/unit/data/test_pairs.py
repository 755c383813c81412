from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torchvision import transforms

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.pairs import EpochBatches, PairDataset, mixed_seed, pair_loader
from pipeline_steps.data.pictures import PictureReader

TRANSFORM = transforms.Compose([transforms.RandomResizedCrop(16), transforms.ToTensor()])


def _tokens(texts: list[str]) -> torch.Tensor:
    return torch.tensor([[len(text)] for text in texts])


@pytest.fixture
def dataset(tmp_path: Path) -> PairDataset:
    generator = np.random.default_rng(0)
    for row in range(12):
        Image.fromarray(generator.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(tmp_path / f"{row}.png")
    nowhere = pa.nulls(12, pa.int64())
    table = pa.table(
        {"image_path": [f"{row}.png" for row in range(12)], "image_offset": nowhere, "image_bytes": nowhere,
         "caption": ["x" * row for row in range(12)]}
    )  # fmt: skip
    return PairDataset(table, PictureReader(tmp_path), TRANSFORM, _tokens, seed=3)


def _run(dataset: PairDataset, workers: int, epoch: int) -> tuple[list[int], torch.Tensor]:
    batches = EpochBatches(len(dataset), 4, seed=3)
    batches.epoch = dataset.epoch = epoch
    parts = list(pair_loader(dataset, batches, workers))
    return torch.cat([part.rows for part in parts]).tolist(), torch.cat([part.images for part in parts])


def test_order_and_augmentation_depend_on_seed_and_epoch_and_not_on_workers(dataset: PairDataset) -> None:
    order, images = _run(dataset, 0, epoch=0)
    with_workers, same_images = _run(dataset, 2, epoch=0)
    assert with_workers == order
    assert torch.equal(images, same_images)
    next_order, next_images = _run(dataset, 0, epoch=1)
    assert sorted(order) == sorted(next_order) == list(range(12))
    assert next_order != order
    assert not torch.equal(images[order.index(0)], next_images[next_order.index(0)])


def test_reading_leaves_the_generator_of_the_training_alone(dataset: PairDataset) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    dataset[4]
    assert torch.equal(torch.rand(3), expected)


def test_the_last_partial_batch_is_left_out_and_a_batch_larger_than_the_data_is_refused() -> None:
    assert [len(batch) for batch in EpochBatches(11, 4, seed=0)] == [4, 4]
    with pytest.raises(
        PipelineError, match="batch_size = 12 is larger than the 11 training pairs; allowed: at most 11"
    ):
        EpochBatches(11, 12, seed=0)


def test_a_picture_that_went_bad_since_the_manifest_is_named(dataset: PairDataset, tmp_path: Path) -> None:
    (tmp_path / "4.png").write_bytes((tmp_path / "4.png").read_bytes()[:60])
    (tmp_path / "5.png").unlink()
    for row in (4, 5):
        with pytest.raises(PipelineError, match=f"{row}.png cannot be read"):
            dataset[row]


def test_the_order_is_the_same_for_any_number_of_processes_and_goes_on_where_it_stopped() -> None:
    whole = list(EpochBatches(13, 4, seed=1))
    shares = [list(EpochBatches(13, 4, seed=1, share=slice(start, start + 2))) for start in (0, 2)]
    assert [first + second for first, second in zip(*shares, strict=True)] == whole
    later = EpochBatches(13, 4, seed=1)
    later.first = 2
    assert list(later) == whole[2:]


def test_every_pair_comes_at_most_once_an_epoch_and_the_order_may_stay() -> None:
    batches = EpochBatches(13, 4, seed=1)
    assert len({row for batch in batches for row in batch}) == 12
    again = EpochBatches(13, 4, seed=1, reshuffle=False)
    first = list(again)
    batches.epoch = again.epoch = 1
    assert list(again) == first
    assert list(batches) != first


def test_a_batch_comes_in_chunks_in_its_order(dataset: PairDataset) -> None:
    batch = next(iter(pair_loader(dataset, EpochBatches(12, 7, seed=0), 0)))
    assert batch.negative_tokens is None
    assert batch.chunks(None) == [batch]
    assert batch.chunks(7) == [batch]
    chunks = batch.chunks(3)
    assert [len(chunk.rows) for chunk in chunks] == [3, 3, 1]
    assert torch.equal(torch.cat([chunk.images for chunk in chunks]), batch.images)
    assert torch.equal(torch.cat([chunk.tokens for chunk in chunks]), batch.tokens)


def test_mixed_seeds_differ_for_neighbours_and_order() -> None:
    seeds = {mixed_seed(seed, epoch, row) for seed in range(4) for epoch in range(8) for row in range(64)}
    assert len(seeds) == 4 * 8 * 64
    assert mixed_seed(1, 2) != mixed_seed(2, 1)
    assert all(0 <= seed < 2**63 for seed in seeds)
