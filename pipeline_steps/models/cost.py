"""What a model is, counted on tensors without data. `python -m pipeline_steps.models.cost ViT-B-16` prints JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline_steps.core.cost import ModelCost
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.models.clip import create_clip


def model_cost(architecture: str) -> ModelCost:
    """Count an architecture with torch's FlopCounterMode. Raises PipelineError for one that open_clip does not know."""
    model = create_clip(architecture).model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    model = model.to("meta").eval()
    size = model.visual.image_size
    side = size[0] if isinstance(size, tuple) else size
    with FlopCounterMode(display=False) as image:
        embedding = model.encode_image(torch.empty(1, 3, side, side, device="meta"))
    with FlopCounterMode(display=False) as text:
        model.encode_text(torch.zeros(1, model.context_length, dtype=torch.long, device="meta"))
    operations = (float(image.get_total_flops()), float(text.get_total_flops()))
    return ModelCost(parameters, side, embedding.shape[-1], *operations)


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(model_cost(sys.argv[1]))))
    except PipelineError as error:
        sys.exit(str(error))
