"""Which part of every layer's FFN a shard holds, and reading just that part.

Experts are cut into runs of equal length, as far as they go; the shared expert and the dense
layers are cut along their width, so that every shard works on every token and the partial sums
add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from shared.kernels.api import FfnWeights
from shared.model.checkpoint import Checkpoint
from shared.model.config import ConfigError


@dataclass(frozen=True, slots=True)
class Shard:
    """The `rank`-th of `count` equal parts."""

    rank: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count:
            raise ConfigError(f"ffn shard {self.rank}: must be in 0..{self.count - 1}")

    def part(self, total: int) -> slice:
        """This shard's share of `total` things; parts differ by one at most."""
        return slice(total * self.rank // self.count, total * (self.rank + 1) // self.count)


def load_ffn_weights(checkpoint: Checkpoint, shard: Shard) -> list[FfnWeights]:
    """The shard's weights of every layer, float32.

    Raises:
      ConfigError: there are more shards than experts.
      CheckpointError: a tensor is missing or damaged.
    """
    config = checkpoint.config.text
    if config.moe_layers and shard.count > config.moe_num_experts:
        raise ConfigError(
            f"ffn shards = {shard.count}: must be at most moe_num_experts "
            f"({config.moe_num_experts}), so that each holds an expert"
        )
    return [_layer(checkpoint, layer, shard) for layer in range(config.num_hidden_layers)]


def _layer(checkpoint: Checkpoint, layer: int, shard: Shard) -> FfnWeights:
    config = checkpoint.config.text
    moe = config.is_moe(layer)
    experts = shard.part(config.moe_num_experts)
    width = shard.part(config.share_expert_dim if moe else config.intermediate_size)
    prefix = f"model.layers.{layer}"
    shared = f"{prefix}.share_expert" if moe else f"{prefix}.mlp"

    def read(name: str, *ranges: slice) -> torch.Tensor:
        return checkpoint.get_slice(f"{name}.weight", *ranges, dtype=torch.float32)

    return FfnWeights(
        first_expert=experts.start,
        gate_EIH=read(f"{prefix}.moe.gate_proj", experts) if moe else None,
        up_EIH=read(f"{prefix}.moe.up_proj", experts) if moe else None,
        down_EHI=read(f"{prefix}.moe.down_proj", experts) if moe else None,
        shared_gate_IH=read(f"{shared}.gate_proj", width),
        shared_up_IH=read(f"{shared}.up_proj", width),
        shared_down_HI=read(f"{shared}.down_proj", slice(None), width),
    )
