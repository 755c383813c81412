"""A step answers at once: its help and the errors of its configuration load nothing that they do not need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.paths import REPOSITORY

STEPS = sorted(path.stem for path in (REPOSITORY / "pipeline_steps").glob("[!_]*.py"))
ENDED = """
import contextlib, importlib, io, json, sys
def third_party():
    packages = {name.partition(".")[0] for name in sys.modules}
    packages = {name for name in packages if not name.startswith("_cython_")}
    known = {"__main__", "pipeline_steps", "_distutils_hack", "cython_runtime", *sys.stdlib_module_names}
    return sorted(packages - known)
before = third_party()
told = io.StringIO()
for name in sys.argv[2:]:
    module = importlib.import_module(f"pipeline_steps.{name}")
    main = module.STEP.main if hasattr(module, "STEP") else module.main
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told), contextlib.suppress(SystemExit):
        main(sys.argv[1].split())
print(json.dumps(sorted(set(third_party()) - set(before))))
print(told.getvalue())
"""


def _loaded(words: str, *steps: str) -> tuple[set[str], str]:
    """What a fresh process had loaded after it ran steps with these words, and what they said."""
    command = [sys.executable, "-c", ENDED, words, *steps]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    packages, told = ran.stdout.split("\n", 1)
    return set(json.loads(packages)), told


def test_help_of_every_step_loads_the_standard_library_alone() -> None:
    packages, told = _loaded("--help", *STEPS)
    assert packages == set()
    assert told.count("usage: python -m pipeline_steps.") == len(STEPS)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "--config config/config.yaml {wrong} --method ncu --pairs p --learned l --checkpoint c --history h",
            "unlearn.gamma = 3: allowed",
        ),
        ("--config config/config.yaml --method ncu --pairs p --learned l --checkpoint c --history h", "--learned l"),
        ("--settings nonsense --method ncu --pairs p --learned l --checkpoint c --history h", "is not JSON"),
        ("--method ncu", "the following arguments are required: --pairs"),
    ],
)
def test_what_a_user_gets_wrong_is_told_before_anything_heavy_is_loaded(tmp_path: Path, words: str, told: str) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("unlearn: {gamma: 3}")
    packages, said = _loaded(words.format(wrong=wrong), "unlearn")
    assert told in said
    assert packages <= {"msgspec", "yaml", "_yaml", "typing_extensions"}
