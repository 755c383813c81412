"""Errors that cross the border of a process, and those of the system in words."""

from __future__ import annotations

import errno
import os
from multiprocessing import active_children
from typing import Never

import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from pipeline_steps.core.errors import PipelineError, told

TEXT = "pictures/3.jpg cannot be read: it is empty. Remove its row, or bring the picture back."


class _Unreadable(Dataset[int]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, row: int) -> Never:
        raise PipelineError(TEXT)


def test_an_error_of_a_data_loading_process_reads_as_it_was_raised() -> None:
    before = active_children()
    with pytest.raises(PipelineError) as caught:
        list(DataLoader(_Unreadable(), num_workers=1))
    for process in set(active_children()) - set(before):
        process.terminate()  # else torch waits 5 seconds for the loader's process, which has failed and does not end
    assert "Traceback" in caught.value.args[0], "torch wraps it no longer, so PipelineError need not unwrap it"
    assert str(caught.value) == TEXT


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_error_of_a_file_system_has_its_place_and_a_remedy(number: int) -> None:
    words = told(OSError(number, os.strerror(number), "results/pairs.parquet"))
    assert words is not None
    if number != errno.ENOMEM:
        assert words.startswith(f"results/pairs.parquet: {os.strerror(number)}. ")
        assert words.endswith(".")


def test_too_little_memory_is_told_by_whoever_finds_it() -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(2**60)
    with pytest.raises(MemoryError) as of_arrow:
        pa.allocate_buffer(2**62)
    for error in (of_torch.value, of_arrow.value, MemoryError(), OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))):
        assert "there is too little memory" in str(told(error))


def test_a_bug_is_none_of_these() -> None:
    for error in (ValueError("no"), RuntimeError("no"), KeyError("no"), OSError("cannot identify image file")):
        assert told(error) is None
