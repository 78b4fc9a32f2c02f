"""What one decoded token costs a model: KV bytes and FLOPs, from its dimensions alone.

Counting rules of the Step-3 report (arXiv 2507.19427), section 4.1: a multiply-add is 2 FLOPs; the
embedding table, the output head, the router, norms and biases are left out of the FLOPs; KV and
weights are 8-bit, except that hybrid models keep BF16 KV in full-attention layers and FP32 state in
linear-attention layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.model.config import Step3Config


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLayers:
    """`layers` attention layers of one kind; the other numbers are of one layer.

    Args:
      layers: how many there are.
      weights: parameters of the linear projections.
      kv_elements: cached numbers for each token of context.
      core_flops: FLOPs of one query token against one cached token (QK^T and PV).
      effective_rank: heads times the rank of one head.
      kv_bytes: size of a cached number.
      window: the longest context that is attended to.
      state_elements: numbers of a recurrent state, read and written once a token in FP32.
    """

    layers: int
    weights: int
    kv_elements: int = 0
    core_flops: int = 0
    effective_rank: int = 0
    kv_bytes: int = 1
    window: int | None = None
    state_elements: int = 0

    def cached_tokens(self, context: int) -> int:
        return context if self.window is None else min(context, self.window)


@dataclass(frozen=True, slots=True, kw_only=True)
class FfnLayers:
    """`layers` gated FFN layers of one kind: `experts` of `width`, `top_k` of them for a token.

    A dense layer is the case of no experts and `shared_width` alone. `shared_experts` is how
    many experts the shared part counts for in the sparsity.
    """

    layers: int
    hidden: int
    shared_width: int
    experts: int = 0
    top_k: int = 0
    width: int = 0
    shared_experts: int = 0

    @property
    def weights(self) -> int:
        return self.layers * 3 * self.hidden * (self.experts * self.width + self.shared_width)

    @property
    def active_weights(self) -> int:
        return self.layers * 3 * self.hidden * (self.top_k * self.width + self.shared_width)

    @property
    def router_weights(self) -> int:
        return self.layers * self.experts * self.hidden

    @property
    def rows(self) -> int:
        """Output rows of all matrices: as many scales has a per-channel quantisation."""
        blocks = self.experts + (1 if self.shared_width else 0)
        width = self.experts * self.width + self.shared_width
        return self.layers * (2 * width + blocks * self.hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeModel:
    """The dimensions that decide what decoding costs."""

    name: str
    hidden: int
    vocab: int
    attention: tuple[AttentionLayers, ...]
    ffn: tuple[FfnLayers, ...]

    @property
    def layers(self) -> int:
        return sum(kind.layers for kind in self.attention)

    def kv_elements(self, context: int) -> int:
        """Cached numbers of a sequence of `context` tokens."""
        return sum(
            kind.layers * kind.kv_elements * kind.cached_tokens(context) for kind in self.attention
        )

    def kv_bytes(self, context: int) -> int:
        """Bytes of KV cache and state that one decoded token moves (Tables 2 and 3)."""
        fp32_read_and_write = 8
        return sum(
            kind.layers
            * (
                kind.kv_elements * kind.kv_bytes * kind.cached_tokens(context)
                + kind.state_elements * fp32_read_and_write
            )
            for kind in self.attention
        )

    def core_flops(self, context: int) -> int:
        """FLOPs of attention without its projections.

        A recurrent state takes 5 an element: decay, k times v, add, and 2 for the query.
        """
        return sum(
            kind.layers * (kind.core_flops * kind.cached_tokens(context) + 5 * kind.state_elements)
            for kind in self.attention
        )

    @property
    def attention_weights(self) -> int:
        return sum(kind.layers * kind.weights for kind in self.attention)

    @property
    def ffn_weights(self) -> int:
        return sum(kind.weights for kind in self.ffn)

    @property
    def router_weights(self) -> int:
        return sum(kind.router_weights for kind in self.ffn)

    @property
    def linear_flops(self) -> int:
        """FLOPs of the projections before and after attention."""
        return 2 * self.attention_weights

    @property
    def ffn_flops(self) -> int:
        return 2 * sum(kind.active_weights for kind in self.ffn)

    @property
    def embedding_weights(self) -> int:
        """Parameters of the input table; the output head has as many."""
        return self.vocab * self.hidden

    @property
    def total_parameters(self) -> int:
        """Without norms and biases."""
        return (
            self.attention_weights
            + self.ffn_weights
            + self.router_weights
            + 2 * self.embedding_weights
        )

    @property
    def active_parameters(self) -> int:
        """Used by one token: with the output head and routers, without the input table."""
        return (
            self.linear_flops // 2
            + self.ffn_flops // 2
            + self.router_weights
            + self.embedding_weights
        )

    @property
    def sparsity(self) -> float:
        """Activated share of a MoE layer's experts, the shared one on both sides; 1 if dense."""
        moe = [kind for kind in self.ffn if kind.layers and kind.experts]
        if not moe:
            return 1.0
        return (moe[0].top_k + moe[0].shared_experts) / (moe[0].experts + moe[0].shared_experts)


def mfa(*, layers: int, hidden: int, heads: int, head_dim: int, q_rank: int) -> AttentionLayers:
    """Multi-matrix factorisation attention: one key-value head, a low-rank query (section 2)."""
    full = heads * head_dim
    return AttentionLayers(
        layers=layers,
        weights=hidden * (q_rank + 2 * head_dim) + q_rank * full + full * hidden,
        kv_elements=2 * head_dim,
        core_flops=4 * full,
        effective_rank=full,
    )


def gqa(
    *,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int = 128,
    kv_bytes: int = 1,
    window: int | None = None,
) -> AttentionLayers:
    """Grouped-query attention."""
    full = heads * head_dim
    return AttentionLayers(
        layers=layers,
        weights=hidden * (full + 2 * kv_heads * head_dim) + full * hidden,
        kv_elements=2 * kv_heads * head_dim,
        core_flops=4 * full,
        effective_rank=full,
        kv_bytes=kv_bytes,
        window=window,
    )


def mla(*, layers: int, hidden: int, heads: int) -> AttentionLayers:
    """Multi-head latent attention as in DeepSeek-V3: 1536 query rank, 512 + 64 latent, 128 heads.

    Decoding runs on the latent: the report counts its 576 numbers for the scores and the values,
    although the values need only 512.
    """
    q_rank, latent, rope, nope, value = 1536, 512, 64, 128, 128
    return AttentionLayers(
        layers=layers,
        weights=hidden * (q_rank + latent + rope)
        + heads * (q_rank * (nope + rope) + latent * (nope + value) + value * hidden),
        kv_elements=latent + rope,
        core_flops=4 * heads * (latent + rope),
        effective_rank=heads * value,
    )


def lightning(*, layers: int, hidden: int, heads: int, head_dim: int = 128) -> AttentionLayers:
    """Lightning (linear) attention with an output gate, as in MiniMax M1: q, k, v, gate, out."""
    full = heads * head_dim
    return AttentionLayers(
        layers=layers,
        weights=5 * hidden * full,
        effective_rank=full,
        state_elements=heads * head_dim * head_dim,
    )


def from_config(config: Step3Config, name: str) -> DecodeModel:
    """The text model of a Step3 configuration."""
    text = config.text
    moe_layers = len(text.moe_layers)
    dense = FfnLayers(
        layers=text.num_hidden_layers - moe_layers,
        hidden=text.hidden_size,
        shared_width=text.intermediate_size,
    )
    moe = FfnLayers(
        layers=moe_layers,
        hidden=text.hidden_size,
        shared_width=text.share_expert_dim,
        experts=text.moe_num_experts,
        top_k=text.moe_top_k,
        width=text.moe_intermediate_size,
        shared_experts=1,
    )
    return DecodeModel(
        name=name,
        hidden=text.hidden_size,
        vocab=text.vocab_size,
        attention=(
            mfa(
                layers=text.num_hidden_layers,
                hidden=text.hidden_size,
                heads=text.num_attention_heads,
                head_dim=text.head_dim,
                q_rank=text.share_q_dim,
            ),
        ),
        ffn=(dense, moe),
    )
