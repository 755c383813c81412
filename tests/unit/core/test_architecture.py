from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
from msgspec.structs import fields
from open_clip.coca_model import MultimodalCfg
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.transform import PreprocessCfg

from pipeline_steps.core.architecture import as_allowed, read_architecture
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import architecture as schema

SMALL = json.loads(Path("config/models/smoke_rn.json").read_text())


@pytest.mark.parametrize("name", open_clip.list_models())
def test_every_configuration_of_open_clip_is_allowed(name: str) -> None:
    as_allowed(open_clip.get_model_config(name), schema.Architecture, name)


@pytest.mark.parametrize(
    ("own", "theirs"),
    [(schema.VisionTower, CLIPVisionCfg), (schema.TextTower, CLIPTextCfg), (schema.MultimodalTower, MultimodalCfg)],
)
def test_the_keys_and_their_defaults_are_open_clips(own: type[Any], theirs: type[Any]) -> None:
    ours = {field.name: field.default for field in fields(own) if field.name != "tokenizer_kwargs"}
    assert ours == {
        field.name: field.default for field in dataclasses.fields(theirs) if field.name != "tokenizer_kwargs"
    }


def test_the_preprocessing_has_open_clips_keys() -> None:
    assert {field.name for field in fields(schema.Preprocess)} == {f.name for f in dataclasses.fields(PreprocessCfg)}


@pytest.mark.parametrize(
    ("tower", "key", "value", "words"),
    [
        ("vision_cfg", "widht", 8, "vision_cfg.widht = 8: unknown key; did you mean `width`?"),
        ("vision_cfg", "width", "8", "vision_cfg.width = '8': allowed is a whole number at least 1"),
        ("vision_cfg", "width", 0, "vision_cfg.width = 0: allowed is a whole number at least 1"),
        ("vision_cfg", "layers", [1, 1], "vision_cfg.layers = [1, 1]: allowed is a list of 4"),
        ("vision_cfg", "timm_model_name", "hf-hub:someone/model", "timm_model_name = 'hf-hub:someone/model': allowed"),
        (
            "vision_cfg",
            "timm_model_name",
            "local-dir:x",
            "timm_model_name = 'local-dir:x': allowed is text of the form",
        ),
        ("vision_cfg", "timm_model_pretrained", True, "a model's weights are its checkpoint's"),
        ("vision_cfg", "layers", 10**9, "vision_cfg.layers = 1000000000"),
        ("text_cfg", "heads", 7, "text_cfg: width (32) must be a multiple of heads (7)"),
        (
            "text_cfg",
            "tokenizer_kwargs",
            {"trust_remote_code": True},
            "tokenizer_kwargs.trust_remote_code = True: unknow",
        ),
        ("text_cfg", "act_kwargs", {"inplace": True}, "text_cfg.act_kwargs.inplace = True: unknown key"),
        ("text_cfg", "hf_pooler_type", "own", "text_cfg.hf_pooler_type = 'own': allowed is 'mean_pooler' or"),
    ],
)
def test_what_is_not_allowed_is_named_with_what_is(
    tower: str, key: str, value: object, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(SMALL | {tower: SMALL[tower] | {key: value}}))
    found, problems = read_architecture(path)
    assert found is None
    assert len(problems) == 1
    assert problems[0].startswith(f"{path}: ")
    assert words in problems[0]


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff\xfe", b"[" * 10**6, b"", b"null", b'{"embed_dim": NaN}'])
def test_a_file_of_another_form_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    found, problems = read_architecture(path)
    assert found is None
    assert f"{path} is not what it should be: " in problems[0]


def test_all_errors_are_told_at_once() -> None:
    broken = {"vision_cfg": {"width": -1, "x": 1}, "text_cfg": {"heads": "many"}, "trust_remote_code": True}
    with pytest.raises(PipelineError, match="has 5 error") as caught:
        as_allowed(broken, schema.Architecture, "theirs.json")
    assert str(caught.value).count("theirs.json: ") == 5
