"""From rows to pairs: which are kept under what caption, in which split, with which noise, and the counts of it all."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline_steps.core.schema import BuildManifestConfig, NoiseConfig
from pipeline_steps.data.image_check import BAD_CAUSES, BadPicture, Picture
from pipeline_steps.data.manifest import SCHEMA, TRAIN, VALIDATION
from pipeline_steps.data.noise import shuffled_captions

DROPPED = ("bad_picture", "empty_caption", "long_caption", "duplicate_pair", "duplicate_image")
_BAD_NAMED = 20
_FIRST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair that is kept. `id` is 16 hex digits of the picture's bytes and its whole caption."""

    id: str
    image_path: str
    picture: Picture
    caption: str


def select_pairs(
    image_paths: Sequence[str],
    captions: Sequence[str],
    pictures: Mapping[str, Picture | BadPicture],
    settings: BuildManifestConfig,
) -> tuple[list[Pair], dict[str, int]]:
    """The rows that are kept, sorted by id, and how many went for which reason (DROPPED) or were `truncated`.

    Of duplicates the first row stays. Where duplicates are kept, the n-th pair of one id gets the id "<id>-<n>".
    """
    counts = Counter(dict.fromkeys((*DROPPED, "truncated"), 0))
    pairs: list[Pair] = []
    seen_pairs, seen_images, seen_ids = set[tuple[str, str]](), set[str](), Counter[str]()
    for path, original in zip(image_paths, captions, strict=True):
        picture, caption = pictures[path], fitted_caption(original, settings.max_caption_characters)
        if isinstance(picture, BadPicture):
            reason = "bad_picture"
        elif settings.drop_empty_captions and not original.strip():
            reason = "empty_caption"
        elif caption != original and settings.long_captions == "drop":
            reason = "long_caption"
        elif settings.drop_duplicate_pairs and (picture.sha256, caption) in seen_pairs:
            reason = "duplicate_pair"
        elif settings.drop_duplicate_images and picture.sha256 in seen_images:
            reason = "duplicate_image"
        else:
            counts["truncated"] += caption != original
            identity = hashlib.sha256(f"{picture.sha256}\n{original}".encode()).hexdigest()[:16]
            seen_pairs.add((picture.sha256, caption))
            seen_images.add(picture.sha256)
            seen_ids[identity] += 1
            suffix = f"-{seen_ids[identity]}" if seen_ids[identity] > 1 else ""
            pairs.append(Pair(identity + suffix, path, picture, caption))
            continue
        counts[reason] += 1
    return sorted(pairs, key=lambda pair: pair.id), dict(counts)


def fitted_caption(caption: str, max_characters: int) -> str:
    """The caption itself when it is short enough, else its start, cut between words where there is a place."""
    if len(caption) <= max_characters:
        return caption
    whole = caption.strip()
    if len(whole) <= max_characters:
        return whole
    head = whole[:max_characters]
    if not whole[max_characters].isspace():
        head = re.sub(r"\s+\S*$", "", head)
    return head.rstrip()


def split_of(sha256: str, validation_fraction: float) -> str:
    """The split of a picture, by a hash of its content: all its pairs, in every run, are on the same side."""
    place = int.from_bytes(hashlib.sha256(f"validation\n{sha256}".encode()).digest()[:8], "big") / 2**64
    return VALIDATION if place < validation_fraction else TRAIN


def manifest_table(pairs: Sequence[Pair], validation_fraction: float, noise: NoiseConfig) -> pa.Table:
    """The rows of SCHEMA, with captions of the training split shuffled as `noise` says and the truth beside them."""
    splits = [split_of(pair.picture.sha256, validation_fraction) for pair in pairs]
    trained = [row for row, split in enumerate(splits) if split == TRAIN]
    clean = [pair.caption for pair in pairs]
    shuffled = shuffled_captions(
        [pairs[row].id for row in trained], [clean[row] for row in trained], fraction=noise.fraction, seed=noise.seed
    )
    captions = list(clean)
    for row, caption in zip(trained, shuffled, strict=True):
        captions[row] = caption
    columns = {
        "id": [pair.id for pair in pairs],
        "image_path": [pair.image_path for pair in pairs],
        "sha256": [pair.picture.sha256 for pair in pairs],
        "width": [pair.picture.width for pair in pairs],
        "height": [pair.picture.height for pair in pairs],
        "caption": captions,
        "split": splits,
        "is_noisy": [caption != own for caption, own in zip(captions, clean, strict=True)],
        "clean_caption": clean,
    }
    return pa.table(columns, schema=SCHEMA)


def manifest_report(
    rows: int,
    pictures: Mapping[str, Picture | BadPicture],
    counts: Mapping[str, int],
    table: pa.Table,
    noise: NoiseConfig,
) -> dict[str, Any]:
    """All counts of a manifest as JSON values; bad pictures are counted by cause and the first twenty named."""
    bad = {path: found for path, found in sorted(pictures.items()) if isinstance(found, BadPicture)}
    causes = Counter(dict.fromkeys(BAD_CAUSES, 0)) + Counter(found.cause for found in bad.values())
    splits = Counter(table["split"].to_pylist())
    named = [{"image_path": path, "cause": found.cause, "message": found.message} for path, found in bad.items()]
    return {
        "rows": rows,
        "pictures": len(pictures),
        "bad_pictures": {cause: causes[cause] for cause in BAD_CAUSES},
        "bad_pictures_named": named[:_BAD_NAMED],
        "dropped": {reason: counts[reason] for reason in DROPPED},
        "truncated_captions": counts["truncated"],
        "pairs": table.num_rows,
        "splits": {split: splits[split] for split in (TRAIN, VALIDATION)},
        "noise": {
            "fraction": noise.fraction,
            "chosen_pairs": round(noise.fraction * splits[TRAIN]),
            "noisy_pairs": sum(table["is_noisy"].to_pylist()),
        },
    }


def refusal(report: Mapping[str, Any], settings: BuildManifestConfig) -> str | None:
    """Why a manifest with this report must not be used, with the remedy; None when it may."""
    bad, pictures = sum(report["bad_pictures"].values()), report["pictures"]
    if bad > settings.max_bad_fraction * pictures:
        first = "; ".join(
            f"{one['image_path']} ({one['cause']}: {one['message']})"
            for one in report["bad_pictures_named"][:_FIRST_NAMED]
        )
        return (
            f"{bad} of {pictures} pictures cannot be used ({_listed(report['bad_pictures'])}), which is more than "
            f"build_manifest.max_bad_fraction = {settings.max_bad_fraction}. The first: {first}. Mend or remove these "
            "rows, or raise max_bad_fraction."
        )
    if report["splits"][TRAIN] == 0 or report["splits"][VALIDATION] < 2:
        dropped = _listed(report["dropped"]) or "none"
        return (
            f"of {report['rows']} rows {report['splits'][TRAIN]} are left to train on and "
            f"{report['splits'][VALIDATION]} in the validation split (at least 1 and 2 are needed): dropped {dropped}. "
            "Loosen these filters or change "
            "validation_fraction in build_manifest, or give more rows."
        )
    return None


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)
