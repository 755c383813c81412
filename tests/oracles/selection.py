"""Selection and noise row by row over Python lists: the obvious form of what the SQL of pipeline_steps/data does."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from pipeline_steps.core.schema import BuildManifestConfig
from pipeline_steps.data.image_check import BadPicture, Picture
from pipeline_steps.data.selection import DROPPED, fitted_caption


def selected(
    rows: Sequence[tuple[str, str]], pictures: Mapping[str, Picture | BadPicture], settings: BuildManifestConfig
) -> tuple[list[dict[str, object]], dict[str, int]]:
    """The manifest's rows without noise, sorted by id, of (image path, caption) rows; and the counts."""
    counts = Counter(dict.fromkeys((*DROPPED, "truncated"), 0))
    kept: list[dict[str, object]] = []
    seen_pairs, seen_images, seen_ids = set[tuple[str, str]](), set[str](), Counter[str]()
    for path, original in rows:
        picture, caption = pictures[path], fitted_caption(original, settings.max_caption_characters)
        if isinstance(picture, BadPicture):
            counts["bad_picture"] += 1
        elif settings.drop_empty_captions and not original.strip():
            counts["empty_caption"] += 1
        elif caption != original and settings.long_captions == "drop":
            counts["long_caption"] += 1
        elif settings.drop_duplicate_pairs and (picture.sha256, caption) in seen_pairs:
            counts["duplicate_pair"] += 1
        elif settings.drop_duplicate_images and picture.sha256 in seen_images:
            counts["duplicate_image"] += 1
        else:
            counts["truncated"] += caption != original
            identity = hashlib.sha256(f"{picture.sha256}\n{original}".encode()).hexdigest()[:16]
            seen_pairs.add((picture.sha256, caption))
            seen_images.add(picture.sha256)
            seen_ids[identity] += 1
            kept.append(
                {
                    "id": identity + (f"-{seen_ids[identity]}" if seen_ids[identity] > 1 else ""),
                    "image_path": path,
                    "sha256": picture.sha256,
                    "width": picture.width,
                    "height": picture.height,
                    "phash": picture.phash,
                    "caption": caption,
                    "split": split_of(picture.sha256, settings.validation_fraction),
                }
            )
    return sorted(kept, key=lambda row: str(row["id"])), dict(counts)


def split_of(sha256: str, validation_fraction: float) -> str:
    """The split of a picture, by a hash of its content."""
    place = int.from_bytes(hashlib.sha256(f"validation\n{sha256}".encode()).digest()[:8], "big") / 2**64
    return "validation" if place < validation_fraction else "train"


def shuffled_captions(ids: Sequence[str], captions: Sequence[str], *, fraction: float, seed: int) -> list[str]:
    """The captions (N,) after round(fraction * N) of them, chosen by seed, have changed places among themselves."""
    ranked = sorted(range(len(ids)), key=lambda row: _rank(seed, "pair", ids[row]))
    chosen = ranked[: round(fraction * len(ids))]
    chosen.sort(key=lambda row: (_rank(seed, "text", captions[row]), _rank(seed, "place", ids[row])))
    shift = max(Counter(captions[row] for row in chosen).values(), default=0)
    after = list(captions)
    for place, row in enumerate(chosen):
        after[row] = captions[chosen[(place + shift) % len(chosen)]]
    return after


def manifest(
    rows: Sequence[tuple[str, str]], pictures: Mapping[str, Picture | BadPicture], settings: BuildManifestConfig
) -> tuple[list[dict[str, object]], dict[str, int]]:
    """All columns of the manifest of pictures in files, and the counts."""
    kept, counts = selected(rows, pictures, settings)
    training = [row for row in kept if row["split"] == "train"]
    ids, clean = [str(row["id"]) for row in training], [str(row["caption"]) for row in training]
    noise = settings.noise
    after = dict(zip(ids, shuffled_captions(ids, clean, fraction=noise.fraction, seed=noise.seed), strict=True))
    for row in kept:
        own = str(row["caption"])
        caption = after.get(str(row["id"]), own)
        row |= {"caption": caption, "clean_caption": own, "is_noisy": caption != own}
        row |= {"image_offset": None, "image_bytes": None}
    return kept, counts


def _rank(seed: int, purpose: str, text: str) -> bytes:
    return hashlib.sha256(f"{purpose}\n{seed}\n{text}".encode()).digest()
