"""Errors that cross the border of a process."""

from __future__ import annotations

from multiprocessing import active_children
from typing import Never

import pytest
from torch.utils.data import DataLoader, Dataset

from pipeline_steps.core.errors import PipelineError

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
