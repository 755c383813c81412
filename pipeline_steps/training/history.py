"""The numbers of a training, a row each: (step, epoch, name, value)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

HistoryRow = tuple[int, int, str, float]


def columns_of(history: Sequence[HistoryRow]) -> dict[str, Any]:
    """The history as tensors and a list of names: what a state file holds, small and quick to write."""
    names = list(dict.fromkeys(row[2] for row in history))
    place = {name: number for number, name in enumerate(names)}
    return {
        "names": names,
        "step": torch.tensor([row[0] for row in history], dtype=torch.int64),
        "epoch": torch.tensor([row[1] for row in history], dtype=torch.int64),
        "name": torch.tensor([place[row[2]] for row in history], dtype=torch.int64),
        "value": torch.tensor([row[3] for row in history], dtype=torch.float64),
    }


def rows_of(columns: Mapping[str, Any]) -> list[HistoryRow]:
    """The history that `columns_of` took apart."""
    names = [columns["names"][place] for place in columns["name"].tolist()]
    return list(zip(columns["step"].tolist(), columns["epoch"].tolist(), names, columns["value"].tolist(), strict=True))
