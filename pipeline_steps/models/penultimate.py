"""What enters the last projection of an image tower: the embeddings of the CLIP paper's linear probes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pipeline_steps.core.errors import PipelineError


class PenultimateReader:
    """Reads a model of open_clip at two places in one pass. Raises PipelineError for a tower without a last projection.

    The towers with one are open_clip's vision transformers (of CLIP, CustomTextCLIP and CoCa) and timm towers that end
    in a linear layer or a perceptron. A ModifiedResNet ends in attention pooling, whose projection is inside.
    """

    def __init__(self, clip: nn.Module) -> None:
        self._clip: Any = clip
        visual: Any = clip.visual
        self._projection = None if _has_matrix(visual) else _last_layer(visual)

    def __call__(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """What enters the projection (N, w), and what leaves it (N, d), neither normalised."""
        if self._projection is None:
            return self._around_matrix(images_NCHW)
        seen: list[Tensor] = []
        handle = self._projection.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        try:
            projected = self._clip.encode_image(images_NCHW, normalize=False)
        finally:
            handle.remove()
        return seen[0], projected

    def _around_matrix(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        visual = self._clip.visual
        matrix_wd, visual.proj = visual.proj, None  # open_clip's tower without a projection stops before it
        try:
            pooled = self._clip.encode_image(images_NCHW, normalize=False)
        finally:
            visual.proj = matrix_wd
        return pooled, pooled @ matrix_wd


def _has_matrix(visual: Any) -> bool:
    return isinstance(getattr(visual, "proj", None), nn.Parameter) and hasattr(visual, "transformer")


def _last_layer(visual: Any) -> nn.Module:
    """The layer of a timm tower that projects: in open_clip's head, or else the trunk's own classifier."""
    head, trunk = getattr(visual, "head", None), getattr(visual, "trunk", None)
    for name in ("proj", "mlp"):
        if isinstance(found := getattr(head, name, None), nn.Module):
            return found
    if trunk is not None and isinstance(head, nn.Sequential) and not len(head):
        found = trunk.get_classifier()
        if isinstance(found, nn.Linear):
            return found
    raise PipelineError(
        f"the image tower {type(visual).__name__}{_inside(trunk)} has no last projection of its own to read before. "
        "Take penultimate out of extract_features.taps (and let eval_probe.tap be projected)."
    )


def _inside(trunk: object) -> str:
    return f" with timm's {type(trunk).__name__}" if trunk is not None else ""
