"""A row of config/datasets.yaml: an evaluation set, what it must be, and the places that it may come from."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from pipeline_steps.core.schema.values import Count, Name, Section

SplitName = Annotated[str, Meta(pattern="^(test|train|validation)$")]
Words = Annotated[str, Meta(min_length=1)]
Template = Annotated[str, Meta(pattern=r"\{c\}")]
# This project's name of a split -> the source's own.
Splits = dict[SplitName, Words]


class ClassNameFile(Section, frozen=True):
    """A parquet file with a class a row: its label 0 to C - 1 and its name."""

    path: Words
    label_column: Words
    name_column: Words


class ClipBenchmarkSource(Section, frozen=True):
    """`build_dataset(dataset, root=root)` of clip-benchmark, which downloads what is not in `root` if it may.

    `lists` maps a split to a file that names its pictures, a line each, for sets without splits of their own.
    """

    kind: Literal["clip_benchmark"]
    dataset: Words
    root: Words
    splits: Splits
    download: bool = True
    lists: dict[SplitName, Words] | None = None


class WebdatasetSource(Section, frozen=True):
    """Shards in clip-benchmark's layout. `place`: a folder, an http(s) address, or wds/<name> of its collection."""

    kind: Literal["webdataset"]
    place: Words
    splits: Splits


class ParquetSource(Section, frozen=True):
    """A row per picture with its encoded bytes. `{split}` in `path` stands for the split's own name.

    The label is `label_column`'s, or the class of `categories` that holds `category_column`'s category or a folder
    above it. Where `split_column` is given it holds the split's own name. `distinct`: equal pictures count once.
    """

    kind: Literal["parquet"]
    path: Words
    splits: Splits
    image_column: Words = "image"
    label_column: str | None = None
    category_column: str | None = None
    categories: dict[str, tuple[str, ...]] | None = None
    caption_column: str | None = None
    tags_column: str | None = None
    split_column: str | None = None
    class_name_column: str | None = None
    class_names: ClassNameFile | None = None
    distinct: bool = False

    def __post_init__(self) -> None:
        if self.label_column and self.category_column:
            raise ValueError("label_column and category_column are both set; a picture's class comes from one of them")
        if not (self.label_column or self.category_column or self.caption_column):
            raise ValueError("none of label_column, category_column and caption_column is set; give what there is")
        if bool(self.category_column) != bool(self.categories):
            raise ValueError("category_column and categories go together: the column, and class name: [categories]")


class NcuSource(Section, frozen=True):
    """The layout of the official code: `folder` (`{split}` in it: the split's own name) with labels.csv, classes.py."""

    kind: Literal["ncu"]
    folder: Words
    splits: Splits
    link_roots: tuple[Words, ...] = ()


class KarpathySource(Section, frozen=True):
    """Karpathy's JSON of Flickr30K or MSCOCO and the folder that its paths start from."""

    kind: Literal["karpathy"]
    path: Words
    images: Words
    splits: Splits
    link_roots: tuple[Words, ...] = ()


class CaptionsCsvSource(Section, frozen=True):
    """A CSV with a caption a row; a picture's rows may stand anywhere. `images: null`: paths start from its folder."""

    kind: Literal["captions_csv"]
    path: Words
    splits: Splits
    images: str | None = None
    image_column: Words = "image"
    caption_column: Words = "caption"
    link_roots: tuple[Words, ...] = ()


class ScanSource(Section, frozen=True):
    """SCAN's split files as NPC lays them out: `folder` with images/ and annotations/scan_split/; `pictures` says how
    an id becomes a file's name.
    """

    kind: Literal["scan"]
    folder: Words
    pictures: Literal["mscoco", "flickr30k", "cc120k"]
    splits: Splits
    link_roots: tuple[Words, ...] = ()


Source = (
    ClipBenchmarkSource | WebdatasetSource | ParquetSource | NcuSource | KarpathySource | CaptionsCsvSource | ScanSource
)


class DatasetRow(Section, frozen=True):
    """An evaluation set: `n` pictures in each split (null: not known before) and `classes` classes, or it is another.

    `classnames`: a key of clip-benchmark's class names, `source` for the source's own, or a list. `templates`: a key of
    clip-benchmark's templates, `source`, or a list; `{c}` stands for the class name. `sources`: the first whose test
    split is there is taken. `folds`: retrieval is also scored on so many equal parts of the test split, and averaged.
    `remedy` says how to get the set, for the line of the hole.
    """

    title: Words
    tasks: Annotated[tuple[Literal["classification", "retrieval"], ...], Meta(min_length=1)]
    metric: Literal["accuracy", "mean_per_class", "recall"]
    n: dict[SplitName, Count | None]
    sources: Annotated[tuple[Source, ...], Meta(min_length=1)]
    classes: Annotated[int, Meta(ge=2)] | None = None
    classnames: Name | tuple[Words, ...] = "source"
    templates: Name | Annotated[tuple[Template, ...], Meta(min_length=1)] = "imagenet1k"
    folds: Annotated[int, Meta(ge=2)] | None = None
    remedy: Words | None = None

    def __post_init__(self) -> None:
        if ("classification" in self.tasks) != (self.classes is not None):
            raise ValueError("`classes`, their number, belongs to every set with the task classification and no other")
        if (self.metric == "recall") != ("classification" not in self.tasks):
            raise ValueError(
                f"metric {self.metric!r} does not fit the tasks {', '.join(self.tasks)}; allowed: recall for retrieval "
                "alone, accuracy or mean_per_class with classification"
            )
        test_pictures = self.n.get("test")
        if test_pictures is None:
            raise ValueError("n.test, the number of test pictures, is missing")
        if isinstance(self.classnames, tuple) and len(self.classnames) != self.classes:
            raise ValueError(f"{len(self.classnames)} class names are listed for {self.classes} classes")
        if self.folds and test_pictures % self.folds:
            raise ValueError(f"{test_pictures} pictures do not fall into {self.folds} equal folds")
        for place, source in enumerate(self.sources):
            if strange := sorted(set(source.splits) - set(self.n)):
                raise ValueError(f"sources.{place}.splits has {', '.join(strange)}, whose size `n` does not say")
            if "test" not in source.splits:
                raise ValueError(f"sources.{place}.splits has no test")
