"""Small sets of real pictures in the layouts of torchvision's readers, and rows of a table, made for tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import torch

from pipeline_steps.core.config import load_section
from pipeline_steps.core.schema import DatasetRow
from pipeline_steps.evaluation.datasets.prepare import prepare
from pipeline_steps.evaluation.datasets.prepared import PreparedSet, read_prepared
from tests.unit.data.made_data import picture_bytes, write_picture


def row(**changes: Any) -> DatasetRow:
    """A checked row: a classification set with two classes and two test pictures, but for `changes`."""
    values = {
        "title": "Made", "tasks": ["classification"], "metric": "accuracy", "n": {"test": 2}, "classes": 2, **changes
    }  # fmt: skip
    if "classification" not in values["tasks"]:
        values |= {"metric": "recall", "classes": None}
    return load_section({"made": values}, "made", DatasetRow)


def prepared(folder: Path, made: DatasetRow, root: Path) -> PreparedSet:
    """The row prepared into `folder` and read back."""
    prepare("made", made, root, folder, processes=1)
    return read_prepared(folder)


def write_ppm(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture_bytes(number, form="PPM"))


def _lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def dtd(root: Path) -> None:
    base = root / "dtd" / "dtd"
    for number, split in enumerate(("train", "val", "test")):
        names = [f"{kind}/{kind}_{number}_{place}.jpg" for kind in ("banded", "dotted") for place in range(2)]
        for place, name in enumerate(names):
            write_picture(base / "images" / name, 10 * number + place)
        _lines(base / "labels" / f"{split}1.txt", names)


def eurosat(root: Path) -> None:
    for number, kind in enumerate(("AnnualCrop", "Forest")):
        for place in range(3):
            write_picture(root / "eurosat" / "2750" / kind / f"{kind}_{place + 1}.jpg", 10 * number + place)


def food101(root: Path) -> None:
    base = root / "food-101"
    for number, split in enumerate(("train", "test")):
        listed = {kind: [f"{kind}/{number}{place}" for place in range(2)] for kind in ("apple_pie", "baby_back_ribs")}
        for place, name in enumerate(name for names in listed.values() for name in names):
            write_picture(base / "images" / f"{name}.jpg", 10 * number + place)
        (base / "meta").mkdir(exist_ok=True)
        (base / "meta" / f"{split}.json").write_text(json.dumps(listed))


def fgvc_aircraft(root: Path) -> None:
    base = root / "fgvc-aircraft-2013b" / "data"
    _lines(base / "variants.txt", ["707-320", "A 380"])
    for number, split in enumerate(("train", "val", "test")):
        for place in range(2):
            write_picture(base / "images" / f"{number}{place}.jpg", 10 * number + place)
        _lines(base / f"images_variant_{split}.txt", [f"{number}0 A 380", f"{number}1 707-320"])


def renderedsst2(root: Path) -> None:
    for number, split in enumerate(("train", "valid", "test")):
        for place, kind in enumerate(("negative", "positive")):
            write_picture(root / "rendered-sst2" / split / kind / f"{number}.png", 10 * number + place)


def sun397(root: Path) -> None:
    _lines(root / "SUN397" / "ClassName.txt", ["/a/abbey", "/a/arch_way/outdoor"])
    for number, kind in enumerate(("abbey", "arch_way/outdoor")):
        for place in range(3):
            write_picture(root / "SUN397" / "a" / kind / f"sun_{number}{place}.jpg", 10 * number + place)


def gtsrb(root: Path) -> None:
    base = root / "gtsrb"
    for label in range(2):
        write_ppm(base / "GTSRB" / "Training" / f"0000{label}" / "00000.ppm", label)
        write_ppm(base / "GTSRB" / "Final_Test" / "Images" / f"0000{label}.ppm", 10 + label)
    _lines(base / "GT-final_test.csv", ["Filename;Width;ClassId", "00000.ppm;24;7", "00001.ppm;24;0"])


def pets(root: Path) -> None:
    base = root / "oxford-iiit-pet"
    for number, split in enumerate(("trainval", "test")):
        names = [f"great_dane_{number}", f"Abyssinian_{number}"]
        for place, name in enumerate(names):
            write_picture(base / "images" / f"{name}.jpg", 10 * number + place)
        _lines(base / "annotations" / f"{split}.txt", [f"{names[0]} 2 2 1", f"{names[1]} 1 1 1"])


def caltech101(root: Path) -> None:
    for number, kind in enumerate(("BACKGROUND_Google", "Faces")):
        for place in range(2):
            path = root / "caltech101" / "101_ObjectCategories" / kind / f"image_{place + 1:04d}.jpg"
            write_picture(path, 10 * number + place)


def cars(root: Path) -> None:
    base = root / "stanford_cars"
    form = [("class", "O"), ("fname", "O")]
    for number, split in enumerate(("train", "test")):
        rows = np.array([(2, "00001.jpg"), (1, "00002.jpg")], dtype=form)
        folder = base / "devkit" if split == "train" else base
        folder.mkdir(parents=True, exist_ok=True)
        name = "cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
        scipy.io.savemat(folder / name, {"annotations": rows})
        for place in range(2):
            write_picture(base / f"cars_{split}" / f"0000{place + 1}.jpg", 10 * number + place)
    scipy.io.savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array(["Audi S4", "BMW M3"], dtype=object)})


def imagenet1k(root: Path) -> None:
    root.mkdir(parents=True)
    wnids = ["n01440764", "n01443537"]
    torch.save(({wnid: (f"name {wnid}",) for wnid in wnids}, []), root / "meta.bin")
    for number, split in enumerate(("train", "val")):
        for place, wnid in enumerate(wnids):
            path = root / split / wnid / f"{number}{place}.JPEG"
            write_picture(path.with_suffix(".jpg"), 10 * number + place).rename(path)


def fer2013(root: Path) -> None:
    for number, split in enumerate(("train", "test")):
        for place, kind in enumerate(("angry", "happy")):
            write_picture(root / split / kind / f"{place}.png", 10 * number + place)


def flickr30k(root: Path) -> None:
    _lines(
        root / "flickr30k_test_karpathy.txt",
        ["image,caption", "2.jpg,A dog, running.", "1.jpg,A cat.", "2.jpg,It runs.", "1.jpg,Whiskers.", "2.jpg,Fast."],
    )
    for number in (1, 2):
        write_picture(root / f"{number}.jpg", number)


def mscoco_captions(root: Path) -> None:
    images = [{"id": number, "file_name": f"COCO_val2014_{number}.jpg"} for number in (9, 4)]
    notes = [(1, 9, "A bus."), (2, 4, "A train."), (3, 9, "Red."), (4, 4, "Blue."), (5, 4, "Long.")]
    annotations = [{"id": note, "image_id": image, "caption": text} for note, image, text in notes]
    for image in images:
        write_picture(root / "val2014" / image["file_name"], image["id"])
    (root / "coco_test_karpathy.json").write_text(json.dumps({"images": images, "annotations": annotations}))


MADE: dict[str, Callable[[Path], None]] = {
    made.__name__: made
    for made in (
        caltech101, cars, dtd, eurosat, fer2013, fgvc_aircraft, flickr30k, food101, gtsrb, imagenet1k,
        mscoco_captions, pets, renderedsst2, sun397,
    )
}  # fmt: skip
