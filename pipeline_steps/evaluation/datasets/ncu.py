"""The official code's layout: labels.csv (image, label) beside the pictures, and classes.py, which is never run."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema.datasets import NcuSource
from pipeline_steps.data.tables import text_batches
from pipeline_steps.evaluation.datasets.source import (
    AbsentError,
    Entry,
    SourceSet,
    SourceSplit,
    below,
    placed,
    roots_of,
    whole_number,
)

_LARGEST_FILE = 2**24
_KEYS = ("classes", "templates", "superclasses")


class Words(NamedTuple):
    """What a classes.py says: class names in the order of their labels, and templates with {c} for the name."""

    classes: list[str]
    templates: list[str]


def read_ncu(source: NcuSource, root: Path) -> SourceSet:
    """labels.csv of every split, and classes.py of the test split or of the folder above it.

    Raises AbsentError without the test split's labels.csv, PipelineError for labels and files of another form.
    """
    splits, missing = {}, {}
    words = Words([], [])
    for name, own in source.splits.items():
        folder = placed(source.folder.replace("{split}", own), root)
        labels = folder / "labels.csv"
        if labels.is_file():
            splits[name] = SourceSplit(own, folder, _entries(labels, folder, roots_of(source, root)))
            if name == "test":
                places = [place / "classes.py" for place in (folder, folder.parent)]
                words = next((read_classes(place) for place in places if place.is_file()), words)
        elif name == "test":
            raise AbsentError(f"{labels} does not exist")
        else:
            missing[name] = f"{labels} does not exist"
    return SourceSet(f"ncu: {placed(source.folder, root)}", splits, words.classes, words.templates, missing)


def _entries(labels: Path, folder: Path, link_roots: list[Path]) -> list[Entry]:
    rows = [
        row
        for batch in text_batches(labels, {"image": "image", "label": "label"})
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    ]
    paths = below(folder, [image for image, _ in rows], labels, link_roots)
    entries = []
    for path, (_, text) in zip(paths, rows, strict=True):
        if (label := whole_number(text)) is None:
            raise PipelineError(f"{labels} has the label {text[:20]!r}; wanted are whole numbers from 0 on")
        entries.append(Entry(path=path, label=label))
    return entries


def read_classes(path: Path) -> Words:
    """A classes.py as data: {"classes": [names], "templates": [lambda s: f"a photo of a {s}.", ...]}.

    The file is parsed and never run. Raises PipelineError naming the line of anything else than names, templates of
    one argument, and `superclasses`, which are lists of names and not used.
    """
    if path.stat().st_size > _LARGEST_FILE:
        raise PipelineError(f"{path} has more than {_LARGEST_FILE} bytes; a list of class names is smaller")
    try:
        body = ast.parse(path.read_text(encoding="utf-8"), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise PipelineError(f"{path} is not one Python expression: {error}") from error
    if not isinstance(body, ast.Dict):
        raise _refused(path, body)
    found: dict[str, ast.expr] = {}
    for key, value in zip(body.keys, body.values, strict=True):
        if not isinstance(key, ast.Constant) or key.value not in _KEYS or key.value in found:
            raise _refused(path, key or value)
        found[key.value] = value
    if missing := [key for key in ("classes", "templates") if key not in found]:
        raise PipelineError(f"{path} has no {' and no '.join(missing)}")
    for group in _members(path, found["superclasses"]) if "superclasses" in found else []:
        _names(path, group)
    templates = [_template(path, member) for member in _members(path, found["templates"])]
    return Words(_names(path, found["classes"]), templates)


def _names(path: Path, node: ast.expr) -> list[str]:
    return [_text(path, member) for member in _members(path, node)]


def _members(path: Path, node: ast.expr) -> list[ast.expr]:
    if not isinstance(node, ast.List | ast.Tuple):
        raise _refused(path, node)
    return node.elts


def _text(path: Path, node: ast.expr) -> str:
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        raise _refused(path, node)
    return node.value


def _template(path: Path, node: ast.expr) -> str:
    """`lambda s: f"a photo of a {s}."` as "a photo of a {c}."; its only part beside text is the bare argument."""
    match node:
        case ast.Lambda(
            args=ast.arguments(posonlyargs=[], args=[ast.arg(arg=name)], vararg=None, kwonlyargs=[], kwarg=None,
                               defaults=[]),
            body=ast.JoinedStr(values=parts),
        ):  # fmt: skip
            pass
        case _:
            raise _refused(path, node)
    texts = [_part(path, part, name) for part in parts]
    if "{c}" not in texts:
        raise _refused(path, node)
    return "".join(texts)


def _part(path: Path, part: ast.expr, name: str) -> str:
    match part:
        case ast.FormattedValue(value=ast.Name(id=used), conversion=-1, format_spec=None) if used == name:
            return "{c}"
        case ast.Constant(value=str(text)) if "{" not in text and "}" not in text:
            return text
    raise _refused(path, part)


def _refused(path: Path, node: ast.expr) -> PipelineError:
    return PipelineError(
        f"{path}, line {node.lineno}, column {node.col_offset + 1}: this {type(node).__name__} is neither a class name "
        'nor a template such as lambda s: f"a photo of a {s}."; nothing else is taken from such a file, and it is '
        "never run"
    )
