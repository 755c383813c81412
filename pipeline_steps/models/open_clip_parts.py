"""open_clip, without timm and transformers until a model has a part of theirs.

It imports both wherever they are installed, which is half of the time that it takes, and few architectures need them.
Whoever wants open_clip in this package takes it from here.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

# Library, open_clip's module that wraps it, the class that open_clip.model takes from there.
_WRAPPED = (("timm", "timm_model", "TimmModel"), ("transformers", "hf_model", "HFTextEncoder"))


def _import_plain() -> ModuleType:
    """open_clip as it is where neither library is installed."""
    hidden = [library for library, _, _ in _WRAPPED if library not in sys.modules]
    try:
        for library in hidden:
            sys.modules[library] = None  # type: ignore[assignment]  # Python's own sign for "not to be had"
        return importlib.import_module("open_clip")
    finally:
        for library in hidden:
            del sys.modules[library]


open_clip: Any = sys.modules.get("open_clip") or _import_plain()


def bring_parts(model_cfg: Mapping[str, Any]) -> None:
    """Import what a model of this open_clip configuration needs: timm, with LaCLIP's towers, or transformers."""
    needed = {
        "timm": model_cfg.get("vision_cfg", {}).get("timm_model_name"),
        "transformers": model_cfg.get("text_cfg", {}).get("hf_model_name"),
    }
    if needed["transformers"] or model_cfg.get("text_cfg", {}).get("hf_tokenizer_name"):
        # Of a model that comes with code of its own, transformers would ask whether to run it: the answer is no.
        importlib.import_module("transformers.dynamic_module_utils").TIME_OUT_REMOTE_CODE = 0  # type: ignore[attr-defined]
    for library, wrapper, name in _WRAPPED:
        module = importlib.import_module(f"open_clip.{wrapper}")
        if needed[library] and getattr(module, library) is None:
            importlib.import_module(library)
            setattr(open_clip.model, name, getattr(importlib.reload(module), name))
    if needed["timm"]:
        importlib.import_module("pipeline_steps.models.laclip")  # makes its towers known to timm
