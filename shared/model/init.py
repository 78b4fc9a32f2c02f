"""Weight initialisation for training from scratch.

Step3's own is unpublished. The text model takes GPT-2's: N(0, 0.02), matrices that write into the
residual stream scaled down by sqrt(2 * layers), norms one, biases zero. The image encoder's
matrices keep the scale of their input, N(0, 1 / fan-in): its sub-layers end in a norm, which blows
any output up to unit scale, and what small weights give is nearly the same for all patches.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from shared.model.step3 import Step3ForConditionalGeneration

STD = 0.02
_WRITES_RESIDUAL = ("o_proj.weight", "down_proj.weight")


def is_vision(name: str) -> bool:
    """Whether a parameter is the image encoder's or the connector's."""
    return name.startswith(("vision_model.", "vit_"))


@torch.no_grad()
def initialize(model: Step3ForConditionalGeneration, seed: int) -> None:
    """Fill all parameters in place; a seed gives the same weights on the same kind of device."""
    generator = torch.Generator(device=model.lm_head.weight.device).manual_seed(seed)
    residual_std = STD / math.sqrt(2 * model.config.text.num_hidden_layers)
    for name, parameter in model.named_parameters():
        vision = is_vision(name)
        if name.endswith("bias"):
            parameter.zero_()
        elif "norm" in name:
            parameter.fill_(1.0)
        elif vision and "position_embedding" not in name:
            fan_in = parameter[0].numel()
            nn.init.normal_(parameter, std=fan_in**-0.5, generator=generator)
        else:
            std = residual_std if name.endswith(_WRITES_RESIDUAL) else STD
            nn.init.normal_(parameter, std=std, generator=generator)
