from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torchvision import transforms

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.pairs import EpochBatches, EpochRows, PairDataset, mixed_seed, pair_loader
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


def _run(dataset: PairDataset, workers: int) -> tuple[list[int], torch.Tensor]:
    parts = list(pair_loader(dataset, EpochBatches(len(dataset), 4, seed=3, epochs=2), workers))
    return torch.cat([part.rows for part in parts]).tolist(), torch.cat([part.images for part in parts])


def test_order_and_augmentation_depend_on_seed_and_epoch_and_not_on_workers(dataset: PairDataset) -> None:
    order, images = _run(dataset, 0)
    with_workers, same_images = _run(dataset, 2)
    assert with_workers == order
    assert torch.equal(images, same_images)
    first, second = order[:12], order[12:]
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert not torch.equal(images[first.index(0)], images[12 + second.index(0)])


def test_a_batch_has_the_very_numbers_of_the_transform(dataset: PairDataset, tmp_path: Path) -> None:
    batch = dataset.batch(EpochRows(1, [7, 2]))
    for row, pixels in zip((7, 2), batch.images, strict=True):
        with Image.open(tmp_path / f"{row}.png") as picture, torch.random.fork_rng():
            torch.manual_seed(mixed_seed(3, 1, row))
            assert torch.equal(TRANSFORM(picture), pixels)
    assert batch.images.is_contiguous()
    assert batch.tokens.tolist() == [[7], [2]]


def test_reading_leaves_the_generator_of_the_training_alone(dataset: PairDataset) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    dataset.batch(EpochRows(0, [4]))
    assert torch.equal(torch.rand(3), expected)


def test_the_last_partial_batch_is_left_out_and_a_batch_larger_than_the_data_is_refused() -> None:
    batches = EpochBatches(11, 4, seed=0, epochs=2)
    assert [len(rows) for _, rows in batches] == [4, 4, 4, 4]
    assert len(batches) == 4
    with pytest.raises(
        PipelineError, match="batch_size = 12 is larger than the 11 training pairs; allowed: at most 11"
    ):
        EpochBatches(11, 12, seed=0, epochs=1)


def test_a_picture_that_went_bad_since_the_manifest_is_named(dataset: PairDataset, tmp_path: Path) -> None:
    (tmp_path / "4.png").write_bytes((tmp_path / "4.png").read_bytes()[:60])
    (tmp_path / "5.png").unlink()
    for row in (4, 5):
        with pytest.raises(PipelineError, match=f"{row}.png cannot be read"):
            dataset.batch(EpochRows(0, [row]))


def test_the_order_is_the_same_for_any_number_of_processes_and_goes_on_where_it_stopped() -> None:
    whole = list(EpochBatches(13, 4, seed=1, epochs=2))
    shares = [list(EpochBatches(13, 4, seed=1, epochs=2, share=slice(start, start + 2))) for start in (0, 2)]
    for first, second, both in zip(*shares, whole, strict=True):
        assert first.epoch == second.epoch == both.epoch
        assert first.rows + second.rows == both.rows
    for done in range(7):
        later = EpochBatches(13, 4, seed=1, epochs=2, first=done)
        assert list(later) == whole[done:]
        assert len(later) == 6 - done


def test_every_pair_comes_at_most_once_an_epoch_and_the_order_may_stay() -> None:
    batches = list(EpochBatches(13, 4, seed=1, epochs=2))
    assert [epoch for epoch, _ in batches] == [0, 0, 0, 1, 1, 1]
    for part in (batches[:3], batches[3:]):
        assert len({row for _, rows in part for row in rows}) == 12
    again = list(EpochBatches(13, 4, seed=1, epochs=2, reshuffle=False))
    assert again[:3] == batches[:3]
    assert [rows for _, rows in again[:3]] == [rows for _, rows in again[3:]]
    assert [rows for _, rows in batches[:3]] != [rows for _, rows in batches[3:]]


def test_a_batch_comes_in_chunks_in_its_order(dataset: PairDataset) -> None:
    batch = next(iter(pair_loader(dataset, EpochBatches(12, 7, seed=0, epochs=1), 0)))
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
