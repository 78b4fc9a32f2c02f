"""Named model sizes, and how many parameters each has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from shared.model.config import Step3Config, TextConfig, VisionConfig
from shared.model.step3 import Step3ForConditionalGeneration

# The released dimensions: 321 B parameters, 316 B of them in the text model.
STEP3 = Step3Config(
    text=TextConfig(
        hidden_size=7168,
        intermediate_size=18432,
        num_hidden_layers=61,
        vocab_size=128815,
        num_attention_heads=64,
        head_dim=256,
        share_q_dim=2048,
        moe_layers=tuple(range(4, 60)),
        moe_num_experts=48,
        moe_top_k=3,
        moe_intermediate_size=5120,
        share_expert_dim=5120,
        max_position_embedding=65536,
    ),
    vision=VisionConfig(
        hidden_size=1792,
        intermediate_size=15360,
        output_hidden_size=4096,
        num_hidden_layers=63,
        num_attention_heads=16,
        image_size=728,
        crop_size=504,
        patch_size=14,
    ),
    image_token_id=128001,
    bos_token_id=0,
    eos_token_id=128805,
)

# What one FFN GPU of a 2-attention 2-FFN deployment (32 GPUs) holds: 3 of the 48 experts in every
# MoE layer. 128 tokens routed to these 3 load them as 2048 tokens load 48 across 16 GPUs.
STEP3_SLICE = replace(STEP3, text=replace(STEP3.text, moe_num_experts=3))

# Trained by this repository on two CPU cores; its tokenizer sets the special ids.
NANO = Step3Config(
    text=TextConfig(
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        vocab_size=2048,
        num_attention_heads=8,
        head_dim=64,
        share_q_dim=128,
        moe_layers=(2, 3, 4),
        moe_num_experts=8,
        moe_top_k=3,
        moe_intermediate_size=256,
        share_expert_dim=256,
        max_position_embedding=2048,
    ),
    vision=VisionConfig(
        hidden_size=192,
        intermediate_size=768,
        output_hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=6,
        image_size=224,
        crop_size=168,
        patch_size=14,
    ),
    image_token_id=1,
    bos_token_id=0,
    eos_token_id=2,
    torch_dtype="float32",
)

# The smallest with every feature: for tests.
TINY = Step3Config(
    text=TextConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=6,
        vocab_size=512,
        num_attention_heads=4,
        head_dim=32,
        share_q_dim=48,
        moe_layers=(2, 3, 4),
        moe_num_experts=8,
        moe_top_k=3,
        moe_intermediate_size=32,
        share_expert_dim=32,
        max_position_embedding=2048,
    ),
    vision=VisionConfig(
        hidden_size=32,
        intermediate_size=64,
        output_hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=728,
        crop_size=504,
        patch_size=14,
    ),
    image_token_id=501,
    bos_token_id=0,
    eos_token_id=505,
    torch_dtype="float32",
)

PRESETS: Mapping[str, Step3Config] = {
    "step3": STEP3,
    "step3-slice": STEP3_SLICE,
    "nano": NANO,
    "tiny": TINY,
}


def preset(name: str) -> Step3Config:
    """The configuration of a preset.

    Raises:
      ValueError: there is no preset of that name.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise ValueError(f"preset {name!r}: must be one of {', '.join(PRESETS)}") from None


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Numbers of parameters. `active` is per text token, with lm_head, without the input table."""

    text: int
    vision: int
    active: int

    @property
    def total(self) -> int:
        return self.text + self.vision


def parameter_counts(config: Step3Config) -> ParameterCounts:
    """Count the parameters of a model built on the meta device: no memory is used."""
    with torch.device("meta"):
        model = Step3ForConditionalGeneration(config)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    text = sum(size for name, size in sizes.items() if name.startswith(("model.", "lm_head.")))
    experts = sum(size for name, size in sizes.items() if ".moe." in name and "_proj." in name)
    idle = experts - experts * config.text.moe_top_k // max(config.text.moe_num_experts, 1)
    active = text - idle - sizes["model.embed_tokens.weight"]
    return ParameterCounts(text=text, vision=sum(sizes.values()) - text, active=active)
