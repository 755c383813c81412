"""Sections of the data stages: download and manifest."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from pipeline_steps.core.schema.values import Count, Fraction, Natural, OpenFraction, PathText, Positive, Section

Jobs = Annotated[Count, Meta(le=250)]  # whose paths fit into one command line of Linux


class DownloadImagesConfig(Section, frozen=True):
    """img2dataset over a URL list. `url_list: null` serves `embedded_parquet` on loopback, with faults.

    `url_list_columns` names the columns of a list without a header line, in its order (CC3M: caption, url). `jobs`
    parts of the list are downloaded by a job each; what failed for a passing reason is asked for `retry_passes` more
    times, each when the rest of its part is done.
    """

    url_list: PathText | None
    url_list_columns: tuple[str, ...] | None
    url_column: str
    caption_column: str
    embedded_parquet: PathText
    embedded_split: Literal["train"]
    fault_fraction: Fraction
    slow_seconds: Positive
    image_size: Count
    resize_mode: Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"]
    encode_format: Literal["jpg", "png", "webp"]
    output_format: Literal["files", "webdataset"]
    min_image_size: Count
    max_image_pixels: Count
    timeout_seconds: Count
    private_addresses: bool
    retries: Natural
    processes: Count
    threads: Count
    samples_per_shard: Count
    min_success_fraction: Fraction
    jobs: Jobs
    retry_passes: Natural


class NoiseConfig(Section, frozen=True):
    """Noisy correspondence on purpose: a seeded share of the training captions shuffled among its pairs.

    `placing: other_text` gives every pair of them another text; `permutation` may give some their own, as NPC does.
    """

    fraction: Fraction
    seed: Natural
    placing: Literal["other_text", "permutation"]


class BuildManifestConfig(Section, frozen=True):
    """Which pairs are kept, how they are split, and the injected noise.

    Pairs come from the download, from `source_csv`, from `source_shards`, a folder of published webdataset shards, or
    from `source_scan`, a folder of SCAN's split files, with the captions in `scan_captions`.
    """

    source_csv: PathText | None
    source_shards: PathText | None
    source_scan: PathText | None
    scan_pictures: Literal["mscoco", "flickr30k", "cc120k"]
    scan_captions: str
    image_root: PathText | None
    image_column: str
    caption_column: str
    drop_duplicate_images: bool
    drop_duplicate_pairs: bool
    drop_empty_captions: bool
    max_caption_characters: Count
    long_captions: Literal["truncate", "drop"]
    max_bad_fraction: Fraction
    max_image_pixels: Count
    validation_fraction: OpenFraction
    noise: NoiseConfig
    link_roots: tuple[PathText, ...] = ()
