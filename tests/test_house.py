"""The house rules: import direction, sizes, files that parse, documents that name only what exists."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

from tests.unit.paths import REPOSITORY

PACKAGE = REPOSITORY / "pipeline_steps"
LAYERS = {
    "steps": {"tracking", "cluster", "methods", "training", "evaluation", "reporting", "models", "data", "core"},
    "training": {"methods", "models", "data", "core", "training"},
    "methods": {"methods", "core"},
    "evaluation": {"evaluation", "models", "data", "core"},
    "reporting": {"reporting", "evaluation", "core"},
    "cluster": {"cluster", "core"},
    "models": {"models", "core"},
    "data": {"data", "core"},
    "core": {"core"},
    "tracking": {"tracking", "core"},
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
DOCUMENTS = [
    REPOSITORY / "README.md",
    REPOSITORY / "config" / "README.md",
    REPOSITORY / "CHANGELOG.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]


def _room(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else "steps"


def _imports(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way_and_files_stay_small(path: Path) -> None:
    allowed = LAYERS[_room(path)]
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] == "pipeline_steps" and len(parts) > 1:
            assert parts[1] in allowed, f"{_room(path)} imports {name}"
        assert parts[0] != "mlflow" or path.parent.name == "tracking", f"{name} outside tracking/"
        assert parts[0] != "open_clip" or _room(path) == "models", f"{name} outside models/"
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= 400


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_functions_stay_small(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


@pytest.mark.parametrize("pattern", ["config/**/*.yaml", "workflow/**/*.yaml", "envs/*.yaml"])
def test_every_yaml_file_parses(pattern: str) -> None:
    paths = sorted(REPOSITORY.glob(pattern))
    assert paths
    for path in paths:
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict), path


def test_every_model_configuration_is_json_of_open_clips_form() -> None:
    paths = sorted((REPOSITORY / "config" / "models").glob("*.json"))
    assert paths
    for path in paths:
        assert {"embed_dim", "vision_cfg", "text_cfg"} <= json.loads(path.read_text(encoding="utf-8")).keys()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_documents_name_only_what_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = set(
        re.findall(r"(?<![\w/.<])((?:pipeline_steps|workflow|config|resources|docs|tests|envs)/[\w./-]+)", text)
    )
    named |= set(re.findall(r"\]\(([^)#:]+)\)", text))
    for name in named:
        clean = name.rstrip(".,")
        assert (REPOSITORY / clean).exists() or (path.parent / clean).exists(), f"{path.name} names {clean}"
    for step in re.findall(r"python -m pipeline_steps\.(\w+)", text):
        assert (PACKAGE / f"{step}.py").exists(), f"{path.name} names the step {step}"
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for target in re.findall(r"`make (\w+)", text):
        assert target in targets, f"{path.name} names make {target}"


def test_every_configuration_key_is_explained() -> None:
    text = (REPOSITORY / "config" / "README.md").read_text(encoding="utf-8")

    def keys(value: object, prefix: str = "") -> list[str]:
        if not isinstance(value, dict):
            return [prefix]
        return [key for name, inner in value.items() for key in keys(inner, f"{prefix}.{name}" if prefix else name)]

    config = yaml.safe_load((REPOSITORY / "config" / "config.yaml").read_text(encoding="utf-8"))
    columns = yaml.safe_load((REPOSITORY / "config" / "methods.yaml").read_text(encoding="utf-8"))
    shared = re.compile(r"^\w+\.(training|forget_set|separation|negative_text)\.")
    for key in {*keys(config), *(key for column in columns.values() for key in keys(column))}:
        wanted = shared.sub(r"\1.", key)
        assert f"`{wanted}`" in text, f"config/README.md does not explain {wanted}"


def test_the_lock_holds_no_address_and_every_direct_dependency() -> None:
    lock = (REPOSITORY / "envs" / "requirements.txt").read_text(encoding="utf-8")
    assert "://" not in lock
    assert "--" not in lock
    locked = {re.split(r"[=\s;]", line)[0].lower().replace("_", "-") for line in lock.splitlines() if line}
    for line in (REPOSITORY / "envs" / "requirements.in").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            package, _, reason = line.partition("#")
            assert reason.strip(), f"{package} without a reason"
            assert re.split(r"[=>\s]", package)[0].lower().replace("_", "-") in locked, package
