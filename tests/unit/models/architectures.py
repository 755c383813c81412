"""Small open_clip architectures of every kind, as JSON files, with what they need from elsewhere made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import MT5Config, PreTrainedTokenizerFast, RobertaConfig

from pipeline_steps.models.clip import ClipBundle, create_clip

CONTEXT = 16
WORDS = ["a", "red", "blue", "green", "flag", "dog", "tree", "house", "with", "on", "the", "very", "long"]
_VISION = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16}
_TEXT = {"context_length": CONTEXT, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3}
KINDS = ("clip", "custom_text", "coca", "siglip", "timm", "hugging_face", "mt5", "resnet")


def write_architecture(kind: str, folder: Path) -> Path:
    """The JSON file of a small architecture of this kind; it finds its tokenizer and text model in `folder`."""
    made: dict[str, Any] = {"embed_dim": 24, "vision_cfg": dict(_VISION), "text_cfg": dict(_TEXT)}
    if kind == "custom_text":
        made["custom_text"] = True
    if kind == "coca":
        made |= {"custom_text": True, "multimodal_cfg": {**_TEXT, "attn_pooler_heads": 2}}
        made["vision_cfg"] |= {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
        made["text_cfg"] |= {"embed_cls": True, "output_tokens": True}
    if kind == "siglip":
        made |= {"custom_text": True, "init_logit_bias": -10}
        made["vision_cfg"] = {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"}
        made["embed_dim"] = 64
        made["text_cfg"] |= {"hf_tokenizer_name": str(_tokenizer(folder / "siglip_words", start=False))}
        made["text_cfg"] |= {"vocab_size": 64, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    if kind == "timm":
        made["custom_text"] = True
        made["vision_cfg"] = {"image_size": 224, "timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token"}
        made["vision_cfg"]["timm_proj"] = None
    if kind == "hugging_face":
        made["text_cfg"] = {
            "context_length": CONTEXT,
            "hf_model_name": str(_roberta(folder / "roberta")),
            "hf_tokenizer_name": str(_tokenizer(folder / "roberta_words", start=True)),
            "hf_proj_type": "linear",
            "hf_pooler_type": "mean_pooler",
        }
    if kind == "mt5":
        made["text_cfg"] = {
            "context_length": CONTEXT,
            "hf_model_name": str(_mt5(folder / "mt5")),
            "hf_tokenizer_name": str(_tokenizer(folder / "siglip_words", start=False)),
            "hf_proj_type": "linear",
            "hf_pooler_type": "mean_pooler",
        }
    if kind == "resnet":
        made["vision_cfg"] = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    path = folder / f"small_{kind}.json"
    path.write_text(json.dumps(made))
    return path


def make(kind: str, folder: Path) -> ClipBundle:
    """A bundle of this kind with random weights of a fixed seed, in evaluation mode."""
    torch.manual_seed(0)
    bundle = create_clip(str(write_architecture(kind, folder)))
    for parameter in bundle.model.parameters():
        if parameter.ndim <= 1:
            torch.nn.init.normal_(parameter, std=0.2)
    bundle.model.eval()
    return bundle


def _tokenizer(folder: Path, *, start: bool) -> Path:
    """A word tokenizer: `</s>` at the end; with `start` also `<s>` in front and a pad of its own, else padded by it."""
    special = ["<s>", "<pad>", "</s>", "<unk>"] if start else ["<pad>", "</s>", "<unk>"]
    known = {word: number for number, word in enumerate([*special, *WORDS])}
    inner = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(token, known[token]) for token in (("<s>", "</s>") if start else ("</s>",))]
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if start else "$A </s>", special_tokens=ends
    )
    pad = "<pad>" if start else "</s>"
    PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", pad_token=pad, eos_token="</s>", padding_side="right"
    ).save_pretrained(folder)
    return folder


def _roberta(folder: Path) -> Path:
    RobertaConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def _mt5(folder: Path) -> Path:
    MT5Config(
        vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=3, num_heads=2, pad_token_id=1, eos_token_id=1
    ).save_pretrained(folder)  # fmt: skip
    return folder
