from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torchvision import transforms

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.pairs import EpochBatches, PairDataset, pair_loader
from pipeline_steps.data.pictures import PictureReader, read_image
from pipeline_steps.data.tar_shards import Sample, read_shard
from tests.unit.data.made_data import sample, write_picture, write_tar

COUNT = 6


@pytest.fixture
def shards(tmp_path: Path) -> dict[str, list[Sample]]:
    found = {}
    for shard in ("a.tar", "b.tar", "c.tar"):
        numbers = [100 * ord(shard[0]) + number for number in range(COUNT)]
        write_tar(tmp_path / shard, [member for number in numbers for member in sample(number, form="png")])
        found[shard] = read_shard(tmp_path / shard, "caption", 10_000)[0]
    return found


def _expected(tmp_path: Path, shard: str, number: int) -> bytes:
    return read_image(write_picture(tmp_path / "one.png", 100 * ord(shard[0]) + number)).tobytes()


def _pixels(reader: PictureReader, shard: str, one: Sample) -> bytes:
    return reader.read(shard, one.offset, one.size).tobytes()


def test_a_byte_range_of_a_shard_is_the_picture_that_the_file_would_be(
    tmp_path: Path, shards: dict[str, list[Sample]]
) -> None:
    reader = PictureReader(tmp_path, open_shards=2)
    for number in (3, 0, 5):
        for shard in ("c.tar", "a.tar", "b.tar"):
            assert _pixels(reader, shard, shards[shard][number]) == _expected(tmp_path, shard, number)
    reader.close()


def test_only_so_many_shards_stay_open(tmp_path: Path, shards: dict[str, list[Sample]]) -> None:
    def opened() -> list[str]:
        links = list(Path("/proc/self/fd").iterdir())
        return sorted(link.readlink().name for link in links if link.is_symlink() and link.readlink().suffix == ".tar")

    reader = PictureReader(tmp_path, open_shards=2)
    for shard in ("a.tar", "b.tar", "a.tar", "c.tar"):
        _pixels(reader, shard, shards[shard][0])
    assert opened() == ["a.tar", "c.tar"]
    reader.close()
    assert opened() == []
    assert _pixels(reader, "b.tar", shards["b.tar"][0]) == _expected(tmp_path, "b.tar", 0)
    reader.close()


def _digests(reader: PictureReader, shards: dict[str, list[Sample]]) -> list[int]:
    return [hash(_pixels(reader, shard, one)) for _ in range(20) for shard in shards for one in shards[shard]]


def test_copies_in_forked_processes_read_beside_each_other(tmp_path: Path, shards: dict[str, list[Sample]]) -> None:
    reader = PictureReader(tmp_path, open_shards=2)
    expected = _digests(reader, shards)
    results = multiprocessing.get_context("fork").SimpleQueue()

    def child() -> None:
        results.put(_digests(reader, shards))

    children = [multiprocessing.get_context("fork").Process(target=child) for _ in range(3)]
    for one in children:
        one.start()
    assert _digests(reader, shards) == expected
    assert [results.get() for _ in children] == [expected] * 3
    for one in children:
        one.join()
    reader.close()


def test_a_pickled_copy_opens_its_own(tmp_path: Path, shards: dict[str, list[Sample]]) -> None:
    reader = PictureReader(tmp_path)
    one = shards["a.tar"][0]
    pixels = _pixels(reader, "a.tar", one)
    copy = pickle.loads(pickle.dumps(reader))
    reader.close()
    assert _pixels(copy, "a.tar", one) == pixels
    copy.close()


def test_files_are_read_by_their_path(tmp_path: Path) -> None:
    write_picture(tmp_path / "folder" / "a.png", 7)
    reader = PictureReader(tmp_path)
    assert reader.read("folder/a.png").tobytes() == read_image(tmp_path / "folder" / "a.png").tobytes()
    with pytest.raises(PipelineError, match=r"none.png cannot be read"):
        reader.read("none.png")


def test_a_shard_that_changed_is_named_with_the_place_and_the_remedy(
    tmp_path: Path, shards: dict[str, list[Sample]]
) -> None:
    reader, one = PictureReader(tmp_path), shards["a.tar"][2]
    with pytest.raises(
        PipelineError, match=rf"{one.size} bytes from {one.offset + 512} on of the shard .*a.tar.*restore"
    ):
        reader.read("a.tar", one.offset + 512, one.size)
    os.truncate(tmp_path / "a.tar", one.offset + 10)
    with pytest.raises(PipelineError, match="the file ends after 10 of these bytes"):
        reader.read("a.tar", one.offset, one.size)
    with pytest.raises(PipelineError, match=r"none.tar.*No such file"):
        reader.read("none.tar", 0, 10)
    reader.close()


def test_a_format_that_starts_a_program_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(PipelineError, match=r"a.png cannot be read \(cannot identify"):
        read_image(tmp_path / "a.png")


def test_a_picture_that_went_bad_since_the_manifest_is_named(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "4.png", 4)
    path.write_bytes(path.read_bytes()[:60])
    for name in ("4.png", "5.png"):
        with pytest.raises(PipelineError, match=f"{name} cannot be read"):
            read_image(tmp_path / name)


def test_transparency_is_flattened_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").getpixel((1, 1)) == (255, 255, 255)
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "keyed.png", transparency=(1, 2, 3))
    assert read_image(tmp_path / "keyed.png").getpixel((1, 1)) == (255, 255, 255)
    Image.new("L", (4, 4), 7).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").getpixel((1, 1)) == (7, 7, 7)


def test_sixteen_bits_of_grey_are_brought_to_eight_and_what_has_no_white_is_refused(tmp_path: Path) -> None:
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    Image.fromarray(ramp).save(tmp_path / "grey.tiff")
    Image.fromarray(ramp.astype(np.int32)).save(tmp_path / "long.tiff")
    (tmp_path / "grey.ppm").write_bytes(b"P5 16 16 65535\n" + ramp.astype(">u2").tobytes())
    for name in ("grey.png", "grey.tiff", "grey.ppm"):
        assert np.asarray(read_image(tmp_path / name))[..., 0].ravel().tolist() == list(range(256)), name
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "floats.tiff")
    for name in ("floats.tiff", "long.tiff"):
        with pytest.raises(PipelineError, match=rf"{name} cannot be read \(its pixels are floats or 32-bit numbers"):
            read_image(tmp_path / name)
    Image.fromarray(ramp).save(tmp_path / "keyed.png", transparency=257)
    assert np.asarray(read_image(tmp_path / "keyed.png"))[..., 0].ravel().tolist() == [0, 255, *range(2, 256)]


def _epoch(rows: pa.Table, root: Path, *, workers: int, first: int = 0) -> tuple[list[int], torch.Tensor]:
    transform = transforms.Compose([transforms.RandomResizedCrop(16), transforms.ToTensor()])
    dataset = PairDataset(rows, PictureReader(root), transform, lambda texts: torch.zeros(len(texts), 1), 3)
    batches = EpochBatches(len(dataset), 3, seed=3, epochs=3, first=2 * (len(dataset) // 3) + first)
    read = list(pair_loader(dataset, batches, workers))
    return torch.cat([batch.rows for batch in read]).tolist(), torch.cat([batch.images for batch in read])


def test_an_epoch_from_shards_is_that_from_files_for_any_number_of_workers_and_goes_on_where_it_stopped(
    tmp_path: Path, shards: dict[str, list[Sample]]
) -> None:
    places = [(shard, one.offset, one.size) for shard in shards for one in shards[shard]]
    for number, (shard, offset, size) in enumerate(places):
        (tmp_path / f"{number}.png").write_bytes((tmp_path / shard).read_bytes()[offset : offset + size])
    captions = [f"caption {number}" for number in range(len(places))]
    names = ("image_path", "image_offset", "image_bytes")
    in_shards = pa.table(dict(zip(names, zip(*places, strict=True), strict=True)) | {"caption": captions})
    nothing = pa.nulls(len(places), pa.int64())
    in_files = pa.table(
        {"image_path": [f"{number}.png" for number in range(len(places))], "image_offset": nothing,
         "image_bytes": nothing, "caption": captions}
    )  # fmt: skip
    order, images = _epoch(in_files, tmp_path, workers=0)
    assert sorted(order) == list(range(3 * COUNT))
    for workers in (0, 2):
        shard_order, shard_images = _epoch(in_shards, tmp_path, workers=workers)
        assert shard_order == order
        assert torch.equal(shard_images, images)
    rest, rest_images = _epoch(in_shards, tmp_path, workers=2, first=4)
    assert rest == order[12:]
    assert torch.equal(rest_images, images[12:])
