from __future__ import annotations

import io

import torch

from pipeline_steps.training.history import HistoryRow, columns_of, rows_of


def test_a_history_comes_back_from_its_columns_and_from_a_file_of_tensors() -> None:
    history: list[HistoryRow] = [
        (0, 0, "loss", 0.1),
        (0, 0, "lr", 1e-4),
        (1, 0, "loss", float("nan")),
        (7, 2, "lr", 0.0),
    ]
    stream = io.BytesIO()
    torch.save(columns_of(history), stream)
    stream.seek(0)
    found = rows_of(torch.load(stream, weights_only=True))
    assert [row[:3] for row in found] == [row[:3] for row in history]
    torch.testing.assert_close(
        torch.tensor([row[3] for row in found], dtype=torch.float64),
        torch.tensor([row[3] for row in history], dtype=torch.float64),
        equal_nan=True, rtol=0, atol=0,
    )  # fmt: skip
    assert rows_of(columns_of([])) == []
