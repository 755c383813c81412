"""Retrieval sets: Karpathy's JSON of Flickr30K and MSCOCO, and a CSV with a caption a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import read_json
from pipeline_steps.core.schema.datasets import CaptionsCsvSource, KarpathySource
from pipeline_steps.data.tables import text_batches
from pipeline_steps.evaluation.datasets.source import (
    AbsentError,
    Entry,
    SourceSet,
    SourceSplit,
    below,
    placed,
    roots_of,
)

# Karpathy's "restval" is what of MSCOCO's validation pictures was added to the training pictures.
_PARTS = {"train": ("train", "restval")}


_WANTED = (
    'Wanted is Karpathy\'s: {"images": [{"filename": ..., "split": ..., "sentences": [{"raw": ...}]}]}, such as '
    "dataset_coco.json; another file goes by kind: captions_csv."
)


class _Sentence(Struct):
    raw: str


class _Image(Struct):
    filename: str
    split: str
    sentences: tuple[_Sentence, ...]
    filepath: str | None = None


class _Karpathy(Struct):
    images: tuple[_Image, ...]


def read_karpathy(source: KarpathySource, root: Path) -> SourceSet:
    """Pictures in the order of the file, each with all of its sentences. Raises AbsentError without file or folder."""
    path, images = placed(source.path, root), placed(source.images, root)
    for place in (path, images):
        if not place.exists():
            raise AbsentError(f"{place} does not exist")
    try:
        found = read_json(path, _Karpathy, _WANTED).images
    except PipelineError:
        first = path.read_bytes()[: 2**16]
        if first.lstrip().startswith(b"[") or b'"annotations"' in first:
            told = f"{path} is another form of these captions, such as COCO's own or BLIP's"
            raise PipelineError(f"{told}. {_WANTED}") from None
        raise
    splits = {
        name: SourceSplit(own, images, _sentences(found, images, _PARTS.get(own, (own,)), path, roots_of(source, root)))
        for name, own in source.splits.items()
    }
    return SourceSet(f"karpathy: {placed(source.path, root)}", splits)


def _sentences(
    found: Sequence[_Image], images: Path, parts: Sequence[str], path: Path, link_roots: list[Path]
) -> list[Entry]:
    chosen = [image for image in found if image.split in parts]
    files = ["/".join(filter(None, (image.filepath, image.filename))) for image in chosen]
    captions = [tuple(sentence.raw for sentence in image.sentences) for image in chosen]
    if twice := [file for file, count in Counter(files).items() if count > 1]:
        raise PipelineError(f"{path} has {len(twice)} pictures twice, such as {twice[0]}; keep one entry of each")
    return caption_entries(dict(zip(files, captions, strict=True)), images, path, link_roots)


def read_captions_csv(source: CaptionsCsvSource, root: Path) -> SourceSet:
    """Pictures in the order of their first rows, captions in that of the rows. Raises AbsentError without the file."""
    splits, missing = {}, {}
    for name, own in source.splits.items():
        path = placed(source.path.replace("{split}", own), root)
        if not path.exists():
            if name == "test":
                raise AbsentError(f"{path} does not exist")
            missing[name] = f"{path} does not exist"
            continue
        images = placed(source.images, root) if source.images else path.parent
        captions: dict[str, list[str]] = {}
        for batch in text_batches(path, {"image_column": source.image_column, "caption_column": source.caption_column}):
            for image, caption in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                captions.setdefault(image, []).append(caption)
        splits[name] = SourceSplit(own, images, caption_entries(captions, images, path, roots_of(source, root)))
    return SourceSet(f"captions_csv: {placed(source.path, root)}", splits, missing=missing)


def caption_entries(
    captions: Mapping[str, Sequence[str]], images: Path, listed_in: Path, link_roots: Sequence[Path] = ()
) -> list[Entry]:
    """A picture for each file below `images`, with its captions. Raises PipelineError, naming the list, for pictures
    that are named twice, lie outside or have no caption.
    """
    for image, texts in captions.items():
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise PipelineError(f"{listed_in}: {image!r} has no caption, or an empty one")
    inside = below(images, list(captions), listed_in, link_roots)
    if twice := [path for path, count in Counter(inside).items() if count > 1]:
        raise PipelineError(
            f"{listed_in} names {len(twice)} pictures in more than one way, such as {twice[0]}; write each path one way"
        )
    return [Entry(path=path, captions=texts) for path, texts in zip(inside, captions.values(), strict=True)]
