"""Reading the configuration: YAML into the sections of `schema/`, every error at once."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml
from msgspec.structs import fields

from pipeline_steps.core.architecture import read_architecture
from pipeline_steps.core.checking import checked, checked_members
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.methods import CLASSIFIER, METHODS, REFERENCE
from pipeline_steps.core.schema import Config, DatasetRow

Section = TypeVar("Section")
Raw = Mapping[str, Any]
PRESETS = Path(__file__).parents[2] / "config" / "methods.yaml"
_EXAMPLE = "config/config.yaml"
_DEEPEST = 50
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's where there is one: seven times as fast


class ConfigError(PipelineError):
    """All errors of a configuration, a line each: dotted key, value, what is allowed, remedy."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(
            f"the configuration has {len(self.problems)} error(s):\n{lines}\n"
            "Every key is explained in config/README.md, and those of evaluation sets in docs/datasets.md."
        )


def read_yaml(paths: Iterable[Path]) -> dict[str, Any]:
    """Merge YAML files, later over earlier, section by section (as Snakemake merges its config files).

    Raises ConfigError for a file that is missing, is not YAML or is not a mapping.
    """
    layers = []
    for path in paths:
        try:
            layers.append(_parsed(path, path.stat().st_mtime_ns))
        except OSError as error:
            raise ConfigError([f"{path}: {error.strerror}; give the path of a YAML file"]) from error
    return merged(*layers)


@cache
def _parsed(path: Path, _modified: int) -> dict[str, Any]:
    """A file as it was then; Snakemake reads the same few files for every method of an experiment."""
    try:
        loaded = _document(path, path.read_text(encoding="utf-8")) or {}
    except UnicodeDecodeError as error:
        place = f"byte {error.object[error.start]:#x} at {error.start}"
        raise ConfigError([f"{path} is not UTF-8 ({place}); save it in that encoding"]) from error
    except (yaml.YAMLError, ValueError) as error:  # a date that no calendar has is a ValueError
        raise ConfigError([f"{path} is not YAML: {' '.join(str(error).split())}"]) from error
    if not isinstance(loaded, dict):
        raise ConfigError([f"{path} holds a {type(loaded).__name__}; a mapping of sections is wanted"])
    return loaded


def _document(path: Path, text: str) -> Any:
    """What a YAML text holds. Raises ConfigError for keys that stand twice, of which YAML's loaders keep the last."""
    depth = 0
    for event in yaml.parse(text, _Loader):  # libyaml crashes when it composes 100,000 levels
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ConfigError([f"{path} has more than {_DEEPEST} levels; a configuration has fewer than ten"])
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        twice = [] if node is None else _twice(node)
        if twice:
            raise ConfigError([f"{path}: {told}" for told in twice])
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _twice(top: yaml.Node) -> list[str]:
    """A sentence for each key that a mapping has more than once."""
    problems, waiting, seen = [], [("", top)], set()
    while waiting:
        parent, node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(parent, item) for item in node.value]
        if isinstance(node, yaml.MappingNode):
            lines: dict[tuple[str, str], int] = {}
            for key, value in node.value:
                dotted = f"{parent}.{key.value}" if parent else str(key.value)
                waiting.append((dotted, value))
                own, line = (key.tag, str(key.value)), key.start_mark.line + 1
                if own in lines and not key.tag.endswith(":merge"):
                    problems.append(
                        f"{dotted} stands in line {lines[own]} and again in line {line}: only the last would count. "
                        "Join them, or remove one"
                    )
                lines[own] = line
    return problems


def resolve(raw: Raw, method: str | None = None) -> dict[str, Any]:
    """The configuration over the column of config/methods.yaml that its `preset` names, and a method's row over both.

    Raises ConfigError for an unknown preset.
    """
    columns = read_yaml([PRESETS])
    if "preset" not in raw:
        project = PRESETS.parents[1]
        told = f"preset: this key is missing, and with it all of {_EXAMPLE}, over which other files are laid"
        remedy = f"Run from the project's folder ({project}; Snakemake: --directory {project}), or name that file, too"
        raise ConfigError([f"{told}. {remedy}"])
    preset = raw["preset"]
    if not isinstance(preset, str) or preset not in columns:
        raise ConfigError([f"preset = {preset!r}: allowed is one of {', '.join(columns)} ({PRESETS.name})"])
    return merged(columns[preset], raw, {} if method is None else METHODS[method].settings)


def load_config(raw: Raw, method: str | None = None) -> Config:
    """Resolve and check the whole configuration, as the method named (if any) has it.

    Raises ConfigError with every error found, those across sections included.
    """
    resolved = resolve(raw, method)
    sections, problems = checked_members(resolved, Config, _EXAMPLE)
    problems += _cross_problems(sections)
    if problems:
        raise ConfigError(problems)
    return Config(**sections)


def load_section(raw: Raw, dotted: str, kind: type[Section]) -> Section:
    """Check one section, such as `unlearn` or `learn_prompt.training`, of a configuration that may hold only it."""
    value: Any = raw
    for part in dotted.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ConfigError([f"{dotted}: this section is missing; copy it from config/config.yaml"])
        value = value[part]
    section, problems = checked(value, kind, dotted, _EXAMPLE)
    if problems:
        raise ConfigError(problems)
    return section  # type: ignore[return-value]


def section_type(dotted: str) -> type[Any]:
    """The type of a dotted section. Raises KeyError for a section that the schema does not have."""
    kind: type[Any] = Config
    for part in dotted.split("."):
        kind = {field.name: field.type for field in fields(kind)}[part]
    return kind


def settings_json(config: Config, *dotted_sections: str) -> str:
    """The named sections alone, as canonical JSON: what Snakemake passes to a step and compares between runs."""
    everything = msgspec.to_builtins(config)
    chosen: dict[str, Any] = {}
    for dotted in dotted_sections:
        source, target = everything, chosen
        *parents, last = dotted.split(".")
        for part in parents:
            source, target = source[part], target.setdefault(part, {})
        target[last] = source[last]
    return json.dumps(chosen, sort_keys=True)


def merged(*layers: Raw) -> dict[str, Any]:
    """Configurations laid over each other, later over earlier, section by section."""
    target: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            sections = isinstance(value, Mapping) and isinstance(target.get(key), dict)
            target[key] = merged(target[key], value) if sections else copy.deepcopy(value)
    return target


def _cross_problems(sections: Mapping[str, Any]) -> list[str]:
    problems = _name_problems(sections)
    problems += _label_problems(sections)
    problems += _forget_set_problems(sections)
    learn, unlearn = sections.get("learn_prompt"), sections.get("unlearn")
    if learn and unlearn and unlearn.negative_text.source == "prompt" != learn.negative_text.source:
        problems.append(
            f"unlearn.negative_text.source = 'prompt' needs the prompt that learn_prompt makes, and "
            f"learn_prompt.negative_text.source = {learn.negative_text.source!r} makes none; allowed: the same in both"
        )
    if (model := sections.get("model")) and model.architecture.endswith(".json"):
        problems += _architecture_problems(Path(model.architecture), sections)
    problems += _dataset_problems(sections)
    download, manifest = sections.get("download_images"), sections.get("build_manifest")
    if download and manifest:
        given = {
            "download_images.url_list": download.url_list,
            "build_manifest.source_csv": manifest.source_csv,
            "build_manifest.source_shards": manifest.source_shards,
            "build_manifest.source_scan": manifest.source_scan,
        }
        sources = [key for key, value in given.items() if value]
        if len(sources) > 1:
            problems.append(
                f"{' and '.join(sources)} are set together; the pairs come from one of them: set the others to null"
            )
    if download and not download.url_list and download.slow_seconds <= download.timeout_seconds:
        problems.append(
            f"download_images.slow_seconds = {download.slow_seconds} is not above download_images.timeout_seconds = "
            f"{download.timeout_seconds}, so nothing would be slow; allowed: more than that"
        )
    return problems


def _name_problems(sections: Mapping[str, Any]) -> list[str]:
    """Lists of names that are not known, or stand in a list twice."""
    problems = []
    for key in ("seeds", "methods", "classifiers"):
        repeated = [str(value) for value, count in Counter(sections.get(key, ())).items() if count > 1]
        if repeated:
            problems.append(f"{key}: {', '.join(repeated)} more than once; each may stand once")
    for key, is_classifier in (("methods", False), ("classifiers", True)):
        known = [
            name for name, row in METHODS.items() if name != REFERENCE and (row.stage == CLASSIFIER) == is_classifier
        ]
        for name in sections.get(key, ()):
            if name not in known:
                also = "" if is_classifier else " (the reference is always there)"
                if name in METHODS and name != REFERENCE:
                    also += f"; {name} stands under `{'methods' if is_classifier else 'classifiers'}`"
                problems.append(f"{key}: {name!r} is not a method; allowed: {', '.join(known)}{also}")
    return problems


def _label_problems(sections: Mapping[str, Any]) -> list[str]:
    """Classifiers need a set of their own, among those that are evaluated, and the oracle needs its truth."""
    noise, prepare = sections.get("inject_label_noise"), sections.get("prepare_dataset")
    if not noise or not prepare or not (named := sections.get("classifiers")):
        return []
    problems = []
    if noise.kind == "own" and "true_labels" in named:
        problems = ["classifiers: true_labels needs the truth, which inject_label_noise.kind = 'own' does not have"]
    if noise.dataset in prepare.datasets:
        return problems
    return problems + [
        f"inject_label_noise.dataset = {noise.dataset!r}: classifiers need one of prepare_dataset.datasets; allowed: "
        + ", ".join(prepare.datasets)
    ]


def _label_set_problems(name: str, row: Raw, sections: Mapping[str, Any]) -> list[str]:
    """The set of the classifiers is one with labels to train on."""
    noise = sections.get("inject_label_noise")
    if not noise or noise.dataset != name or not sections.get("classifiers"):
        return []
    if "classification" in row["tasks"] and "train" in row["n"]:
        return []
    return [
        f"inject_label_noise.dataset = {name!r}: classifiers need a set for classification with a train split, and its "
        "row has none"
    ]


def _forget_set_problems(sections: Mapping[str, Any]) -> list[str]:
    """A forget set that is empty in every batch. The baselines use the batch of NCU's phases."""
    problems = []
    for stage, batch in (("learn_prompt", "learn_prompt"), ("unlearn", "unlearn"), ("train_baseline", "unlearn")):
        if stage not in sections or batch not in sections:
            continue
        fraction, size = sections[stage].forget_set.fraction, sections[batch].training.batch_size
        if fraction * size < 1:
            problems.append(
                f"{stage}.forget_set.fraction = {fraction} of {batch}.training.batch_size = {size} is less than one "
                f"pair, so the forget set would always be empty; allowed: a fraction of at least {1 / size:.3g}, or a "
                "larger batch"
            )
    return problems


def _architecture_problems(path: Path, sections: Mapping[str, Any]) -> list[str]:
    found, problems = read_architecture(path)
    if found is None:
        return [f"model.architecture: {problem}" for problem in problems]
    text = found.text_cfg
    if text.hf_model_name is not None:  # its layers are told when it is built
        return []
    for stage in ("train_reference", "learn_prompt", "unlearn", "train_npc"):
        if stage in sections and sections[stage].training.freeze.text_blocks > text.layers:
            problems.append(
                f"{stage}.training.freeze.text_blocks = {sections[stage].training.freeze.text_blocks}: the text tower "
                f"of {path} has {text.layers} blocks; allowed: 0 to {text.layers}"
            )
    learn = sections.get("learn_prompt")
    if learn and learn.prompt_vectors > text.context_length - 3:
        problems.append(
            f"learn_prompt.prompt_vectors = {learn.prompt_vectors} does not fit context_length = {text.context_length} "
            f"of {path}; allowed: at most {text.context_length - 3}"
        )
    return problems


def _dataset_problems(sections: Mapping[str, Any]) -> list[str]:
    prepare, tables = sections.get("prepare_dataset"), sections.get("make_tables")
    problems = []
    if prepare:
        try:
            rows = read_yaml([Path(prepare.table)])
        except ConfigError as error:
            return [f"prepare_dataset.table: {problem}" for problem in error.problems]
        for name in prepare.datasets:
            if name not in rows:
                allowed = ", ".join(rows)
                problems.append(f"prepare_dataset.datasets: {name!r} is no row of {prepare.table}; allowed: {allowed}")
            else:
                _, wrong = checked(rows[name], DatasetRow, f"{prepare.table}: {name}", "a row of config/datasets.yaml")
                problems += wrong or _label_set_problems(name, rows[name], sections)
    if prepare and tables:
        for average, names in tables.averages.items():
            if unknown := [name for name in names if name not in prepare.datasets]:
                problems.append(
                    f"make_tables.averages.{average}: {', '.join(unknown)} is not evaluated; allowed: "
                    f"{', '.join(prepare.datasets)} (prepare_dataset.datasets)"
                )
    features, probe = sections.get("extract_features"), sections.get("eval_probe")
    if features and probe and probe.tap not in features.taps:
        problems.append(
            f"eval_probe.tap = {probe.tap!r} is not among extract_features.taps = {list(features.taps)}; add it there"
        )
    return problems
