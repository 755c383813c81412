"""What a model configuration of open_clip's form may say: a file of `model.architecture`, a checkpoint's own.

Such a file may be a stranger's, and open_clip hands some of its keys on to timm and transformers as they stand. These
are all that may stand in one; none of them lets a library run code that came with the model.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from pipeline_steps.core.schema.values import Fraction, Natural, Number, Positive, Section

Size = Annotated[int, Meta(ge=1, le=2**20)]
Depth = Annotated[int, Meta(ge=1, le=1024)]
LocalName = Annotated[
    str, Meta(pattern=r"^[\w.-]+$")
]  # timm takes options, too, from a name that means a hub or a folder
Pooler = Literal["mean_pooler", "max_pooler", "cls_pooler", "cls_last_hidden_state_pooler"]
Channels = tuple[Number, Number, Number]


class ActivationOptions(Section, frozen=True):
    """Options of GELU."""

    approximate: Literal["none", "tanh"] = "none"


class NormOptions(Section, frozen=True):
    """Options of a layer normalisation."""

    eps: Positive = 1e-5


class TokenizerOptions(Section, frozen=True):
    """Options of open_clip's tokenizers."""

    clean: Literal["canonicalize", "lower", "whitespace"] | None = None
    strip_sep_token: bool = False
    language: str | None = None
    reduction_mask: Literal["", "simple", "random", "shuffle"] = ""


class _Tower(Section, frozen=True, kw_only=True):
    """What towers of both kinds have."""

    mlp_ratio: Positive = 4.0
    ls_init_value: Number | None = None
    final_ln_after_pool: bool = False
    output_tokens: bool = False
    act_kwargs: ActivationOptions | None = None
    norm_kwargs: NormOptions | None = None
    block_type: Literal["default", "custom"] | None = None
    qk_norm: bool = False
    scaled_cosine_attn: bool = False
    scale_heads: bool = False
    scale_attn_inner: bool = False
    scale_attn: bool = False
    scale_fc: bool = False


class VisionTower(_Tower, frozen=True, kw_only=True):
    """open_clip's CLIPVisionCfg: a vision transformer, a ResNet of four stages, or a tower of timm."""

    layers: Depth | tuple[Depth, Depth, Depth, Depth] = 12
    width: Size = 768
    head_width: Size = 64
    patch_size: Size | None = 16
    image_size: Size | tuple[Size, Size] = 224
    patch_dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    attentional_pool: bool | Literal["parallel", "cascade"] = False
    attn_pooler_queries: Size = 256
    attn_pooler_heads: Size = 8
    no_ln_pre: bool = False
    pos_embed_type: Literal["learnable", "sin_cos_2d"] = "learnable"
    pool_type: Literal["tok", "avg", "none"] = "tok"
    timm_model_name: LocalName | None = None
    timm_model_pretrained: bool = False
    timm_pool: Literal["", "avg", "avgmax", "max", "token", "map", "abs_attn", "rot_attn"] = "avg"
    timm_proj: Literal["", "linear", "mlp", "none"] | None = "linear"
    timm_proj_bias: bool = False
    timm_drop: Fraction = 0.0
    timm_drop_path: Fraction | None = None

    def __post_init__(self) -> None:
        """What open_clip divides must come out whole, and weights come from nowhere else."""
        if self.timm_model_pretrained:
            raise ValueError("timm_model_pretrained: a model's weights are its checkpoint's; allowed is false")
        if self.timm_model_name is None and isinstance(self.layers, int) and self.width % self.head_width:
            raise ValueError(f"width ({self.width}) must be a multiple of head_width ({self.head_width})")


class TextTower(_Tower, frozen=True, kw_only=True):
    """open_clip's CLIPTextCfg: a transformer, or a model of transformers by name."""

    context_length: Size = 77
    vocab_size: Size = 49408
    hf_tokenizer_name: str | None = None
    tokenizer_mode: Literal["clips"] | None = None
    tokenizer_kwargs: TokenizerOptions = field(default_factory=TokenizerOptions)
    width: Size = 512
    heads: Size = 8
    layers: Depth = 12
    embed_cls: bool = False
    pad_id: Natural = 0
    eos_id: Natural = 2
    no_causal_mask: bool = False
    pool_type: Literal["first", "last", "argmax", "eos", "none"] = "argmax"
    proj_bias: bool = False
    proj_type: Literal["linear", "none"] = "linear"
    hf_model_name: str | None = None
    hf_model_pretrained: bool = True
    hf_proj_type: Literal["", "linear", "mlp"] | None = "mlp"
    hf_pooler_type: Literal["mean_pooler", "max_pooler", "cls_pooler", "cls_last_hidden_state_pooler"] | None = (
        "mean_pooler"
    )

    def __post_init__(self) -> None:
        """What open_clip divides must come out whole."""
        if self.hf_model_name is None and self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")


class MultimodalTower(TextTower, frozen=True, kw_only=True):
    """open_clip's MultimodalCfg: the decoder of a CoCa."""

    dim_head: Size = 64
    n_queries: Size = 256
    attn_pooler_heads: Size = 8


class Preprocess(Section, frozen=True, kw_only=True):
    """open_clip's PreprocessCfg, which a checkpoint's configuration holds beside the model's."""

    size: Size | tuple[Size, Size] | None = None
    mode: Literal["RGB"] | None = None
    mean: Channels | None = None
    std: Channels | None = None
    interpolation: Literal["bicubic", "bilinear", "random"] | None = None
    resize_mode: Literal["shortest", "longest", "squash"] | None = None
    fill_color: Natural | None = None


class Architecture(Section, frozen=True, kw_only=True):
    """A model configuration of open_clip's form."""

    embed_dim: Size
    vision_cfg: VisionTower
    text_cfg: TextTower
    multimodal_cfg: MultimodalTower | None = None
    quick_gelu: bool = False
    custom_text: bool = False
    init_logit_scale: Number | None = None
    init_logit_bias: Number | None = None
    nonscalar_logit_scale: bool = False
    output_dict: bool = False


class CheckpointConfig(Section, frozen=True, kw_only=True):
    """open_clip_config.json of a checkpoint folder."""

    model_cfg: Architecture
    preprocess_cfg: Preprocess = field(default_factory=Preprocess)
