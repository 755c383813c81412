"""Reading the configuration: YAML into the frozen dataclasses of `schema.py`, every error at once."""

from __future__ import annotations

import copy
import difflib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.methods import METHODS, REFERENCE
from pipeline_steps.core.schema import Config, DatasetRow

Section = TypeVar("Section")
Raw = Mapping[str, Any]
PRESETS = Path(__file__).parents[2] / "config" / "methods.yaml"


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
    merged: dict[str, Any] = {}
    for path in paths:
        try:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise ConfigError([f"{path}: {error.strerror}; give the path of a YAML file"]) from error
        except yaml.YAMLError as error:
            raise ConfigError([f"{path} is not YAML: {' '.join(str(error).split())}"]) from error
        if not isinstance(loaded, dict):
            raise ConfigError([f"{path} holds a {type(loaded).__name__}; a mapping of sections is wanted"])
        _merge(merged, loaded)
    return merged


def resolve(raw: Raw, method: str | None = None) -> dict[str, Any]:
    """The configuration over the column of config/methods.yaml that its `preset` names, and a method's row over both.

    Raises ConfigError for an unknown preset.
    """
    columns = read_yaml([PRESETS])
    preset = raw.get("preset")
    if preset not in columns:
        raise ConfigError([f"preset = {preset!r}: allowed is one of {', '.join(columns)} ({PRESETS.name})"])
    resolved: dict[str, Any] = columns[preset]
    _merge(resolved, raw)
    if method is not None:
        _merge(resolved, METHODS[method].settings)
    return resolved


def load_config(raw: Raw, method: str | None = None) -> Config:
    """Resolve and check the whole configuration, as the method named (if any) has it.

    Raises ConfigError with every error found, those across sections included.
    """
    resolved = resolve(raw, method)
    problems = _problems(resolved, Config, "")
    problems += _cross_problems(_valid_sections(resolved))
    if problems:
        raise ConfigError(problems)
    return TypeAdapter(Config).validate_python(resolved)


def load_section(raw: Raw, dotted: str, kind: type[Section]) -> Section:
    """Check one section, such as `unlearn` or `learn_prompt.training`, of a configuration that may hold only it."""
    value: Any = raw
    for part in dotted.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ConfigError([f"{dotted}: this section is missing; copy it from config/config.yaml"])
        value = value[part]
    problems = _problems(value, kind, dotted)
    if problems:
        raise ConfigError(problems)
    return TypeAdapter(kind).validate_python(value)


def section_type(dotted: str) -> type[Any]:
    """The dataclass of a dotted section. Raises KeyError for a section that the schema does not have."""
    kind: type[Any] = Config
    for part in dotted.split("."):
        kind = get_type_hints(kind, include_extras=True)[part]
    return kind


def settings_json(config: Config, *dotted_sections: str) -> str:
    """The named sections alone, as canonical JSON: what Snakemake passes to a step and compares between runs."""
    everything = TypeAdapter(Config).dump_python(config, mode="json")
    chosen: dict[str, Any] = {}
    for dotted in dotted_sections:
        source, target = everything, chosen
        *parents, last = dotted.split(".")
        for part in parents:
            source, target = source[part], target.setdefault(part, {})
        target[last] = source[last]
    return json.dumps(chosen, sort_keys=True)


def _merge(target: dict[str, Any], extra: Mapping[str, Any]) -> None:
    for key, value in extra.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = copy.deepcopy(value)


def _problems(value: Any, kind: type[Any], prefix: str) -> list[str]:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        details = error.errors(include_url=False)
        places = [detail["loc"] for detail in details]
        # A list whose members are wrong is also called too short; the members' own errors say it.
        told = [
            detail
            for detail in details
            if detail["type"] != "too_short"
            or not any(place[: len(detail["loc"])] == detail["loc"] and place != detail["loc"] for place in places)
        ]
        return [_sentence(detail, kind, prefix) for detail in told]
    return []


def _sentence(detail: Any, kind: type[Any], prefix: str) -> str:
    key = ".".join([prefix, *map(str, detail["loc"])] if prefix else map(str, detail["loc"])) or "the configuration"
    if detail["type"] == "missing":
        example = "a row of config/datasets.yaml" if kind is DatasetRow else "config/config.yaml"
        return f"{key}: this key is missing; copy it from {example}"
    if detail["type"] == "unexpected_keyword_argument":
        allowed = sorted(_keys_beside(kind, detail["loc"]))
        close = difflib.get_close_matches(str(detail["loc"][-1]), allowed, n=1)
        hint = f"did you mean `{close[0]}`? " if close else ""
        return f"{key} = {detail['input']!r}: unknown key; {hint}allowed here: {', '.join(allowed)}"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if detail["type"] == "value_error":
        return f"{key}: {message}"
    message = message.replace("String should match pattern", "text of the form")
    return f"{key} = {detail['input']!r}: allowed is {message}"


def _keys_beside(kind: Any, location: tuple[int | str, ...]) -> list[str]:
    for part in location[:-1]:
        if is_dataclass(kind):
            kind = get_type_hints(kind, include_extras=True)[str(part)]
        elif isinstance(part, str):
            kind = next(iter(member for member in _members(kind) if _kind_of(member) == part), kind)
    return [field.name for field in fields(kind)] if is_dataclass(kind) else []


def _members(kind: Any) -> Iterator[Any]:
    """The dataclasses in a type such as tuple[A | B, ...]."""
    if is_dataclass(kind):
        yield kind
    for argument in get_args(kind):
        yield from _members(argument)


def _kind_of(kind: Any) -> str | None:
    """What the field `kind` of a member of a discriminated union says."""
    return next(iter(get_args(get_type_hints(kind).get("kind"))), None)


def _valid_sections(raw: Raw) -> dict[str, Any]:
    valid = {}
    for name, kind in get_type_hints(Config, include_extras=True).items():
        if name in raw and not _problems(raw[name], kind, name):
            valid[name] = TypeAdapter(kind).validate_python(raw[name])
    return valid


def _cross_problems(sections: Mapping[str, Any]) -> list[str]:
    problems = []
    for key in ("seeds", "methods"):
        repeated = [str(value) for value, count in Counter(sections.get(key, ())).items() if count > 1]
        if repeated:
            problems.append(f"{key}: {', '.join(repeated)} more than once; each may stand once")
    for name in sections.get("methods", ()):
        if name not in METHODS or name == REFERENCE:
            allowed = ", ".join(method for method in METHODS if method != REFERENCE)
            problems.append(f"methods: {name!r} is not a method; allowed: {allowed} (the reference is always there)")
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
    try:
        text = json.loads(path.read_text(encoding="utf-8"))["text_cfg"]
        # open_clip's defaults; a text tower of Hugging Face tells its layers when it is built.
        layers, context_length = int(text.get("layers", 12)), int(text.get("context_length", 77))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"model.architecture = {str(path)!r} is not a file of open_clip's form: {error!r}"]
    if "hf_model_name" in text:
        return []
    problems = []
    for stage in ("train_reference", "learn_prompt", "unlearn"):
        if stage in sections and sections[stage].training.freeze.text_blocks > layers:
            problems.append(
                f"{stage}.training.freeze.text_blocks = {sections[stage].training.freeze.text_blocks}: the text tower "
                f"of {path} has {layers} blocks; allowed: 0 to {layers}"
            )
    learn = sections.get("learn_prompt")
    if learn and learn.prompt_vectors > context_length - 3:
        problems.append(
            f"learn_prompt.prompt_vectors = {learn.prompt_vectors} does not fit context_length = {context_length} of "
            f"{path}; allowed: at most {context_length - 3}"
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
                problems += _problems(rows[name], DatasetRow, f"{prepare.table}: {name}")
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
