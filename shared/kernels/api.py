"""The operations that engines are made of, as contracts.

A decode step is, for every layer, one `AttentionLayer` call and one `FfnLayer` call (the cut of
Attention-FFN Disaggregation: Step-3 report, section 7.1), then one `Head` call. Each is one
operation here, so that a fast implementation may fuse what it likes inside.

Dimension key: T tokens, H hidden, N query heads, C head dim, R query rank, E experts, K experts
chosen per token, I expert width, S sequences, M blocks of one sequence, V vocabulary
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from shared.ffn.backend import Routing
from shared.model.config import TextConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionDims:
    hidden: int
    heads: int
    head_dim: int
    query_rank: int
    experts: int
    top_k: int
    norm_expert_weight: bool
    eps: float

    @classmethod
    def of(cls, config: TextConfig) -> AttentionDims:
        return cls(
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            head_dim=config.head_dim,
            query_rank=config.share_q_dim,
            experts=config.moe_num_experts,
            top_k=config.moe_top_k,
            norm_expert_weight=config.norm_expert_weight,
            eps=config.rms_norm_eps,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWeights:
    """One layer's weights on the attention side, shapes as in the checkpoint."""

    input_norm_H: Tensor
    q_proj_RH: Tensor
    k_proj_CH: Tensor
    v_proj_CH: Tensor
    inter_norm_R: Tensor
    wq_OR: Tensor  # O = N * C
    o_proj_HO: Tensor
    post_norm_H: Tensor
    gate_EH: Tensor | None  # None on dense layers


@dataclass(frozen=True, slots=True, kw_only=True)
class FfnWeights:
    """One layer's FFN weights, or one shard of them.

    Experts [first_expert, first_expert + E) are held here. The shared expert or dense FFN may be
    cut along its width.
    """

    first_expert: int
    gate_EIH: Tensor | None
    up_EIH: Tensor | None
    down_EHI: Tensor | None
    shared_gate_IH: Tensor | None
    shared_up_IH: Tensor | None
    shared_down_HI: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionBatch:
    """Where each of T tokens stands. All tensors are int32 and contiguous, on the device."""

    positions_T: Tensor
    sequences_T: Tensor  # row of block_tables
    block_tables_SM: Tensor


class KvCache:
    """One layer's rotated keys and values, in blocks of `block_size` tokens.

    Keys lie transposed in a block, so that one vector load brings one coordinate of many keys.
    """

    def __init__(
        self, num_blocks: int, block_size: int, head_dim: int, device: str | torch.device = "cpu"
    ) -> None:
        self.block_size = block_size
        self.keys_BCP = torch.zeros(num_blocks, head_dim, block_size, device=device)
        self.values_BPC = torch.zeros(num_blocks, block_size, head_dim, device=device)


class AttentionLayer(Protocol):
    def __init__(
        self, dims: AttentionDims, weights: AttentionWeights, cos_PC: Tensor, sin_PC: Tensor
    ) -> None:
        """cos_PC, sin_PC: [positions, C/2] float32."""

    def __call__(
        self, hidden_TH: Tensor, ffn_out_TH: Tensor | None, batch: AttentionBatch, cache: KvCache
    ) -> tuple[Tensor, Routing | None]:
        """Residual of the previous FFN, norm, MFA with cache append, residual, norm, router.

        `hidden_TH` is updated in place. Returns the normalised input of this layer's FFN and the
        routing (None on dense layers); both are valid until the next call of this object with as
        many tokens or more.
        """
        ...


class FfnLayer(Protocol):
    def __init__(self, weights: FfnWeights) -> None: ...

    def __call__(self, normed_TH: Tensor, routing: Routing | None, out_TH: Tensor) -> None:
        """Write routed (this shard's experts) plus shared or dense output to `out_TH`."""
        ...


class Head(Protocol):
    def __init__(self, norm_H: Tensor, weight_VH: Tensor, eps: float) -> None: ...

    def __call__(self, hidden_TH: Tensor, ffn_out_TH: Tensor, rows_S: Tensor) -> Tensor:
        """Logits [S, V] of the given rows of hidden + ffn_out; rows_S is int32."""
        ...
