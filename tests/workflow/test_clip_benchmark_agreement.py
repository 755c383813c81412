"""The real clip_benchmark command and this project's steps on one checkpoint and the same pictures."""

from __future__ import annotations

import io
import random
from collections import Counter
from pathlib import Path
from typing import Any

import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline_steps.models.clip import save_clip
from tests.clip_benchmark_runs import clip_benchmark, write_classification, write_retrieval
from tests.evaluation_runs import evaluated
from tests.unit.models.architectures import make
from tests.unit.paths import REPOSITORY

pytestmark = pytest.mark.usefixtures("warm")

TOLERANCE = 1e-4
CLASSES, COUNT, EPOCHS = 12, 600, 25
RECALL_AT = (1, 5, 10)
TEMPLATES = ["{c}", "a drawing of a {c}.", "an icon of a {c}, clip art"]


@pytest.fixture(scope="module")
def pictures() -> list[dict[str, Any]]:
    """600 different bundled pictures of the 12 categories that have the most, with one to six captions each.

    No two captions have the same tokens: those would tie, and clip_benchmark leaves ties to the sort.
    """
    table = pq.read_table(REPOSITORY / "resources/openclipart/openclipart.parquet")
    rows = list({row["image"]: row for row in table.filter(table["split"].to_numpy() == "train").to_pylist()}.values())
    most = [category for category, _ in Counter(row["category"] for row in rows).most_common(CLASSES)]
    chosen = [row for row in rows if row["category"] in most]
    chosen = random.Random(0).sample(chosen, COUNT)
    return [
        {"image": row["image"], "label": most.index(row["category"]), "classes": most,
         "captions": [f"{number} {text}" for text in dict.fromkeys(map(str.lower, [row["title"], *row["tags"][:5]]))]}
        for number, row in enumerate(chosen)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, pictures: list[dict[str, Any]]) -> Path:
    """A small model trained for as long as it takes to be better than chance, as trainings here leave one."""
    folder = tmp_path_factory.mktemp("model")
    bundle = make("clip", folder)
    every = bundle.tokenizer([text for row in pictures for text in row["captions"]])
    assert len(every.unique(dim=0)) == len(every)
    images = torch.stack([bundle.preprocess(_opened(row["image"])) for row in pictures])
    tokens = bundle.tokenizer([f"{row['classes'][row['label']]} {row['captions'][0]}" for row in pictures])
    optimizer = torch.optim.AdamW(bundle.model.parameters(), lr=2e-3)
    loss = open_clip.ClipLoss()
    torch.manual_seed(0)
    bundle.model.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(pictures)).split(100):
            optimizer.zero_grad()
            loss(*bundle.model(images[rows], tokens[rows])).backward()
            optimizer.step()
    save_clip(folder / "checkpoint", bundle)
    return folder / "checkpoint"


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_zero_shot_and_retrieval_are_clip_benchmarks_to_1e_4(
    tmp_path: Path, pictures: list[dict[str, Any]], checkpoint: Path
) -> None:
    contents, labels = [row["image"] for row in pictures], [row["label"] for row in pictures]
    captions = [row["captions"] for row in pictures]
    assert len({len(texts) for texts in captions}) > 2
    things = write_classification(
        tmp_path / "things", {"test": (contents, labels)}, classes=pictures[0]["classes"], templates=TEMPLATES,
        form="webp",
    )  # fmt: skip
    words = write_retrieval(tmp_path / "words", contents[:300], captions[:300], form="webp")
    rows = {
        "made_things": {"title": "Things", "tasks": ["classification"], "metric": "accuracy", "n": {"test": 600},
                        "classes": CLASSES, "classnames": "source", "templates": "source",
                        "sources": [_shards(things)]},
        "made_words": {"title": "Words", "tasks": ["retrieval"], "metric": "recall", "n": {"test": 300},
                       "sources": [_shards(words)]},
    }  # fmt: skip
    zero_shot, retrieval = evaluated(
        tmp_path / "ours", rows, checkpoint, eval_zeroshot={"topk": [1, 5]}, eval_retrieval={"recall_at": RECALL_AT}
    )

    theirs = clip_benchmark(things, checkpoint, tmp_path / "things.json", task="zeroshot_classification")
    ours = zero_shot["made_things"]
    assert ours["n"] == COUNT
    assert ours["top1"] > 2 * ours["chance_top1"]
    for name, their_name in (("top1", "acc1"), ("top5", "acc5"), ("mean_per_class", "mean_per_class_recall")):
        assert ours[name] == pytest.approx(theirs[their_name], abs=TOLERANCE), name

    options = ["--recall_k", *map(str, RECALL_AT)]
    theirs = clip_benchmark(words, checkpoint, tmp_path / "words.json", task="zeroshot_retrieval", options=options)
    ours = retrieval["made_words"]
    assert ours["n_captions"] == sum(map(len, captions[:300])) > 600
    assert ours["mean_recall"] > 2 * ours["chance_mean_recall"]
    for k in RECALL_AT:
        assert ours[f"image_to_text_recall@{k}"] == pytest.approx(theirs[f"text_retrieval_recall@{k}"], abs=TOLERANCE)
        assert ours[f"text_to_image_recall@{k}"] == pytest.approx(theirs[f"image_retrieval_recall@{k}"], abs=TOLERANCE)


def _shards(place: Path) -> dict[str, Any]:
    return {"kind": "webdataset", "place": str(place), "splits": {"test": "test"}}
