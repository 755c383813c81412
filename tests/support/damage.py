"""Forms of files that the project reads, damaged at random: nothing but the project's own error may come out.

`python -m tests.support.damage [--tries N] [--seed N]` prints the table of docs/reliability.md.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import logging
import random
import tarfile
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import yaml
from safetensors.torch import save_file
from tabulate import tabulate

from pipeline_steps.core.architecture import read_architecture
from pipeline_steps.core.config import ConfigError, load_config, read_yaml, resolve
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import read_json
from pipeline_steps.core.schema.datasets import KarpathySource, NcuSource
from pipeline_steps.data.bank import read_bank
from pipeline_steps.data.labels import NoisyLabels, labels_of_file, read_labels, write_labels
from pipeline_steps.data.manifest import SCHEMA, TRAINING_COLUMNS, image_root, training_rows, write_manifest
from pipeline_steps.data.parquet_file import write_parquet
from pipeline_steps.data.tables import read_text_columns
from pipeline_steps.data.tar_shards import read_shard
from pipeline_steps.evaluation.datasets.captions import read_karpathy
from pipeline_steps.evaluation.datasets.ncu import read_classes, read_ncu
from pipeline_steps.evaluation.scores import Score
from pipeline_steps.models.weight_file import read_weights
from pipeline_steps.training.state import load_state, save_state
from tests.unit.data.made_data import picture_bytes
from tests.unit.paths import REPOSITORY

READ, REFUSED, BROKEN = "read", "refused in words", "broke"
WEIGHTS = {"a.weight": torch.arange(600.0).reshape(20, 30), "logit_scale": torch.tensor(4.0)}
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**70, 1.5, float("nan"), float("inf"), "", "x", "é\0", "\ud800", "../x", [], {}, [[1]],
    {"a": 1}, ["x", "x"], "a" * 5000,
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A form of file: `make(path)` writes a good one, `read(path)` reads it; `exact` means that no damage may pass for
    another content.
    """

    suffix: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    change: Callable[[bytes, random.Random], bytes]
    exact: bool = False


def bits(content: bytes, chance: random.Random) -> bytes:
    """The content with a bit flipped, an end cut off, a stretch overwritten, taken out or doubled."""
    place, width = chance.randrange(len(content)), chance.choice((1, 8, 64, 512))
    return chance.choice(
        (
            content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :],
            content[:place],
            content[:place] + chance.randbytes(width) + content[place + width :],
            content[:place] + b"\xff" * width + content[place + width :],
            content[:place] + content[place + width :],
            content[:place] + content[place : place + width] + content[place:],
        )
    )


def json_values(content: bytes, chance: random.Random) -> bytes:
    """The content with one value, wherever it stands, in place of another, or a key renamed."""
    found = json.loads(content)
    return json.dumps(_changed(found, chance)).encode()


def _changed(found: Any, chance: random.Random) -> Any:
    places = list(_places(found))
    holder, key = chance.choice(places)
    if isinstance(holder, dict) and chance.random() < 0.2:
        holder[f"{key}s"] = holder.pop(key)
    else:
        holder[key] = copy.deepcopy(chance.choice(VALUES))
    return found


def _places(found: Any) -> Iterator[tuple[Any, Any]]:
    for key, value in list(found.items() if isinstance(found, dict) else enumerate(found)):
        yield found, key
        if isinstance(value, dict | list):
            yield from _places(value)


def either(content: bytes, chance: random.Random) -> bytes:
    """One of both."""
    return chance.choice((bits, json_values))(content, chance)


def _torch(path: Path, *, zipped: bool) -> None:
    content = {"state_dict": WEIGHTS, "lr": np.float64(1e-3), "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)


def _script(path: Path) -> None:
    linear = torch.nn.Linear(4, 3)
    torch.jit.trace(linear, torch.zeros(1, 4)).save(path)


def _manifest(path: Path) -> None:
    rows = [
        {
            "id": f"{n:016x}", "image_path": f"a/{n}.png", "image_offset": None, "image_bytes": None,
            "sha256": f"{n:064x}", "width": 4, "height": 5, "phash": -n, "caption": f"a caption {n * 7919}",
            "split": "train", "is_noisy": True, "clean_caption": f"clean {n}",
        }
        for n in range(200)
    ]  # fmt: skip
    write_manifest(path, pa.Table.from_pylist(rows, schema=SCHEMA), path.parent)


def _read_manifest(path: Path) -> object:
    image_root(path)
    return training_rows(path, None, [*TRAINING_COLUMNS, "is_noisy"]).to_pylist()


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for number in range(4):
            for ending, content in (("png", picture_bytes(number, form="PNG")), ("txt", b"a caption"), ("json", b"{}")):
                member = tarfile.TarInfo(f"{number}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _karpathy(path: Path) -> None:
    images = [
        {"filename": f"{n}.jpg", "filepath": "val", "split": "test", "sentences": [{"raw": "a"}, {"raw": "b"}]}
        for n in range(3)
    ]
    path.write_text(json.dumps({"images": images}))


def _read_karpathy(path: Path) -> object:
    source = KarpathySource(kind="karpathy", path=str(path), images="{root}", splits={"test": "test"})
    return list(read_karpathy(source, path.parent).splits["test"].entries)


def _configuration() -> dict[str, Any]:
    return resolve(read_yaml([REPOSITORY / "config" / "config.yaml"]))


def _read_configuration(path: Path) -> object:
    return load_config(resolve(read_yaml([path])))


def _raise_problems(path: Path) -> object:
    found, problems = read_architecture(path)
    if problems:
        raise PipelineError(problems[0])
    return found


def _state(path: Path) -> object:
    found = load_state(path, "mine")
    if found is None:
        raise PipelineError("left aside, which the log says")
    return found["done"], found["model"]["weight"].tolist()


def _made_scores(path: Path) -> None:
    path.write_text(json.dumps({"cars": {"n": 3, "accuracy": 0.5, "split": "test"}, "dtd": {"hole": "gone"}}))


def _read_scores(path: Path) -> object:
    return read_json(path, dict[str, dict[str, Score]], "")


def _make_ncu(path: Path) -> None:
    path.write_text("image,label\n" + "".join(f"{n}.jpg,{n % 2}\n" for n in range(6)))


def _read_ncu(path: Path) -> object:
    path.with_name("labels.csv").write_bytes(path.read_bytes())
    found = read_ncu(NcuSource(kind="ncu", folder="{root}", splits={"test": "test"}), path.parent)
    return list(found.splits["test"].entries)


def _make_classes(path: Path) -> None:
    path.write_text('{"classes": ["a cat", "b"], "templates": [lambda t: f"a {t}", lambda t: f"{t} of"]}')


KINDS = {
    "weights, torch's zip": Kind(".pt", lambda path: _torch(path, zipped=True), read_weights, bits),
    "weights, torch's older form": Kind(".pt", lambda path: _torch(path, zipped=False), read_weights, bits),
    "weights, TorchScript": Kind(".pt", _script, read_weights, bits),
    "weights, safetensors": Kind(".safetensors", lambda path: save_file(WEIGHTS, path), read_weights, bits),
    "a model's JSON": Kind(
        ".json",
        lambda path: path.write_bytes((REPOSITORY / "config/models/smoke_rn.json").read_bytes()),
        _raise_problems, either,
    ),
    "a configuration's values": Kind(
        ".yaml", lambda path: path.write_text(json.dumps(_configuration())), _read_configuration, json_values
    ),
    "a configuration's bytes": Kind(
        ".yaml", lambda path: path.write_text(yaml.safe_dump(_configuration())), _read_configuration, bits
    ),
    "a manifest": Kind(".parquet", _manifest, _read_manifest, bits, exact=True),
    "labels": Kind(
        ".parquet",
        lambda path: write_labels(path, NoisyLabels(np.arange(99), np.arange(99) % 3, None)),
        lambda path: [column.tolist() for column in read_labels(path)[:2]], bits, exact=True,
    ),
    "a memory bank": Kind(
        ".parquet",
        lambda path: write_parquet(path, pa.table({"image_neighbour": range(99), "text_neighbour": range(99)})),
        lambda path: read_bank(path, 99).tolist(), bits, exact=True,
    ),
    "labels, own CSV": Kind(
        ".csv",
        lambda path: path.write_text("label,label_noisy\n" + "1,0\n" * 50),
        lambda path: labels_of_file(path, np.ones(50, dtype=np.int64), classes=2).tolist(), bits,
    ),
    "pairs, own CSV": Kind(
        ".csv",
        lambda path: path.write_text("image_path,text_content\n" + '"a/é.png","a, b"\n' * 50),
        lambda path: read_text_columns(path, {"i": "image_path", "c": "text_content"}).to_pylist(), bits,
    ),
    "a tar shard": Kind(".tar", _tar, lambda path: read_shard(path, "caption", 10**6), bits),
    "captions, Karpathy's JSON": Kind(".json", _karpathy, _read_karpathy, either),
    "labels of NCU's sets": Kind(".csv", _make_ncu, _read_ncu, bits),
    "classes.py of NCU's sets": Kind(".py", _make_classes, read_classes, bits),
    "scores": Kind(".json", _made_scores, _read_scores, either),
    "a training's state": Kind(
        ".pt", lambda path: save_state(path, "mine", {"done": 3, "model": {"weight": torch.arange(500.0)}}), _state,
        bits, exact=True,
    ),
}  # fmt: skip


def outcomes(name: str, tries: int, seed: int) -> tuple[Counter[str], list[str]]:
    """How often damaged files of a kind were read, refused in words, or broke something; and what broke, in a line."""
    kind, chance, counted, told = KINDS[name], random.Random(f"{name} {seed}"), Counter[str](), []
    logging.getLogger("pipeline_steps").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, f"made{kind.suffix}")
        kind.make(path)
        good = path.read_bytes()
        whole = kind.read(path) if kind.exact else None
        for number in range(tries):
            content = kind.change(good, chance)
            path.write_bytes(content)
            try:
                found = kind.read(path)
                wrong = kind.exact and content != good and found != whole
                outcome, words = (BROKEN, "read as another content") if wrong else (READ, "")
            except (PipelineError, ConfigError):
                outcome, words = REFUSED, ""
            except Exception as error:  # whatever else it is, it is the finding
                outcome, words = BROKEN, f"{type(error).__name__}: {error}"
            counted[outcome] += 1
            if words:
                told.append(f"{name}, try {number}: {' '.join(words.split())[:200]}")
    return counted, told


def main() -> None:
    """Print the table, and what broke."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows, broken = [], []
    for name in KINDS:
        counted, told = outcomes(name, arguments.tries, arguments.seed)
        rows.append([name, arguments.tries, *(counted[outcome] for outcome in (READ, REFUSED, BROKEN))])
        broken += told
    print(tabulate(rows, ["file", "tried", READ, REFUSED, BROKEN], tablefmt="github"))
    print("\n".join(broken))


if __name__ == "__main__":
    main()
