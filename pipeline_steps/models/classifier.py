"""Plain picture classifiers of timm."""

from __future__ import annotations

from typing import Any, cast

import timm
from torch import nn

from pipeline_steps.core.errors import PipelineError


def create_classifier(architecture: str, classes: int, *, small_stem: bool) -> nn.Module:
    """A model with fresh weights. `small_stem`: its first convolution has stride 1 and no pooling after it.

    Raises PipelineError for a name that timm does not know, and for a stem that is not a ResNet's.
    """
    if not timm.is_model(architecture):
        raise PipelineError(
            f"train_classifier.architecture = {architecture!r} is not known to timm (timm.list_models())"
        )
    model: Any = timm.create_model(architecture, num_classes=classes)
    if not small_stem:
        return cast(nn.Module, model)
    if hasattr(model, "stem") and hasattr(model, "stages"):  # a pre-activation ResNet
        first = next(module for module in model.stem.modules() if isinstance(module, nn.Conv2d))
        model.stem = _small(first)
    elif isinstance(getattr(model, "conv1", None), nn.Conv2d) and hasattr(model, "maxpool"):
        model.conv1, model.maxpool = _small(model.conv1), nn.Identity()
    else:
        raise PipelineError(
            f"train_classifier.small_stem needs a ResNet with one first convolution, and {architecture!r} is none; set "
            "it to false, or use resnetv2_18 or resnet18"
        )
    return cast(nn.Module, model)


def _small(first: nn.Conv2d) -> nn.Conv2d:
    return nn.Conv2d(first.in_channels, first.out_channels, 3, stride=1, padding=1, bias=False)
