"""open_clip comes without timm and transformers, and gets them for the models that need them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.unit.paths import REPOSITORY

PLAIN_FIRST = """
import sys
from pathlib import Path
from pipeline_steps.models.clip import create_clip, load_clip, save_clip
folder = Path(sys.argv[1])
def parts():
    return [name for name in ("timm", "transformers") if name in sys.modules]
plain = create_clip("config/models/smoke_rn.json")
assert parts() == [], parts()
from tests.unit.models.architectures import make
for kind in ("timm", "hugging_face"):
    bundle = make(kind, folder)
    save_clip(folder / kind, bundle)
    again = load_clip(folder / kind)
    print(type(again.model.visual).__name__, type(again.model.text).__name__)
"""


def test_a_plain_model_needs_neither_and_others_get_theirs_in_the_same_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PLAIN_FIRST, str(tmp_path)]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["TimmModel TextTransformer", "VisionTransformer HFTextEncoder"]
