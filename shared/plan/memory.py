"""Bytes of a deployment: weights in a storage type, KV cache, and what a pool of cards holds.

GB are 10^9 bytes. Norms are left out (0.9 million numbers in Step-3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shared.errors import InvalidArgument
from shared.model.config import Step3Config
from shared.model.presets import parameter_counts
from shared.plan.hardware import Accelerator, Dtype
from shared.plan.models import from_config

KvDtype = Literal["bf16", "fp8"]
KV_BYTES: dict[KvDtype, int] = {"bf16": 2, "fp8": 1}

# What a plan keeps free on every card: the CUDA context, workspaces and activations. A card with
# less than this left holds the numbers on paper only.
RESERVE_BYTES = 1e9

_FP8_BLOCK = 128 * 128
_SCALE_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightBytes:
    """Bytes of a model's parts. `latent` is q_proj, k_proj and v_proj: no head owns a part of it.

    `query_up` is wq and `output` is o_proj, which split by head.
    """

    latent: float
    query_up: float
    output: float
    ffn: float
    router: float
    embeddings: float
    vision: float

    @property
    def attention(self) -> float:
        return self.latent + self.query_up + self.output

    @property
    def total(self) -> float:
        return self.attention + self.ffn + self.router + self.embeddings + self.vision


def weight_bytes(config: Step3Config, dtype: Dtype) -> WeightBytes:
    """Bytes of the weights when stored in `dtype`.

    * bf16: everything.
    * fp8: the linear layers of attention and FFN, with an FP32 scale for each block of 128 x 128;
      embeddings, head, router and vision in bf16, as in the released FP8 checkpoint.
    * int8: everything but attention and the router, which stay bf16, with an FP32 scale for each
      output row of the FFN and of the two token tables.
    """
    text = config.text
    model = from_config(config, "")
    layers, hidden, full = (
        text.num_hidden_layers,
        text.hidden_size,
        model.attention[0].effective_rank,
    )
    attention = {"bf16": 2.0, "fp8": 1 + _SCALE_BYTES / _FP8_BLOCK, "int8": 2.0}[dtype]
    ffn = {"bf16": 2.0, "fp8": 1 + _SCALE_BYTES / _FP8_BLOCK, "int8": 1.0}[dtype]
    rest = 1 if dtype == "int8" else 2
    ffn_scales = _SCALE_BYTES * sum(kind.rows for kind in model.ffn) if dtype == "int8" else 0
    table_scales = _SCALE_BYTES * 2 * text.vocab_size if dtype == "int8" else 0
    return WeightBytes(
        latent=attention * layers * hidden * (text.share_q_dim + 2 * text.head_dim),
        query_up=attention * layers * text.share_q_dim * full,
        output=attention * layers * full * hidden,
        ffn=ffn * model.ffn_weights + ffn_scales,
        router=2.0 * model.router_weights,
        embeddings=rest * 2.0 * model.embedding_weights + table_scales,
        vision=rest * float(parameter_counts(config).vision),
    )


def kv_bytes_per_token(config: Step3Config, kv: KvDtype) -> int:
    """Bytes of KV cache of one token: one key and one value head in every layer."""
    return from_config(config, "").kv_elements(1) * KV_BYTES[kv]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What of attention each card holds whole; everything else is split evenly over the pool."""

    name: str
    means: str
    whole_latent: bool
    whole_query_up: bool
    whole_output: bool
    whole_kv: bool


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        name="all split",
        means="every weight and the KV tokens are split evenly: the bound no layout beats",
        whole_latent=False,
        whole_query_up=False,
        whole_output=False,
        whole_kv=False,
    ),
    Layout(
        name="heads split, KV split",
        means="wq and o_proj by head, the KV tokens of a sequence over all cards",
        whole_latent=True,
        whole_query_up=False,
        whole_output=False,
        whole_kv=False,
    ),
    Layout(
        name="tensor parallel",
        means="wq and o_proj by head; the one KV head is on every card",
        whole_latent=True,
        whole_query_up=False,
        whole_output=False,
        whole_kv=True,
    ),
    Layout(
        name="data parallel, o_proj split",
        means="each card its own requests; only o_proj is split (the report's attention side)",
        whole_latent=True,
        whole_query_up=True,
        whole_output=False,
        whole_kv=False,
    ),
    Layout(
        name="data parallel",
        means="each card its own requests and all attention weights",
        whole_latent=True,
        whole_query_up=True,
        whole_output=True,
        whole_kv=False,
    ),
)

Verdict = Literal["fits", "fits on paper only", "does not fit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardPlan:
    """Bytes on one card of a pool under one layout; `kv_tokens_max` is of the whole pool."""

    layout: str
    means: str
    attention: float
    ffn: float
    router: float
    embeddings: float
    vision: float
    kv: float
    left: float
    kv_tokens_max: int
    verdict: Verdict


def pool_plan(
    config: Step3Config,
    gpu: Accelerator,
    gpus: int,
    *,
    weights: Dtype,
    kv: KvDtype,
    kv_tokens: int,
) -> list[CardPlan]:
    """What each card of a colocated pool holds, under every layout.

    Args:
      config: the whole model, vision included.
      gpu: the kind of card.
      gpus: how many cards.
      weights: how weights are stored.
      kv: how the cache is stored.
      kv_tokens: cached tokens of all requests together.

    Raises:
      InvalidArgument: `gpus` or `kv_tokens` is out of range.
    """
    for field, value, least in (("gpus", gpus, 1), ("kv-tokens", kv_tokens, 0)):
        if value < least:
            raise InvalidArgument(
                f"{field} = {value}: must be at least {least}", reason="OUT_OF_RANGE", field=field
            )
    held = weight_bytes(config, weights)
    token_bytes = kv_bytes_per_token(config, kv)
    return [_card(held, token_bytes, gpu, gpus, kv_tokens, layout) for layout in LAYOUTS]


def _card(
    held: WeightBytes,
    token_bytes: int,
    gpu: Accelerator,
    gpus: int,
    kv_tokens: int,
    layout: Layout,
) -> CardPlan:
    attention = (
        held.latent / (1 if layout.whole_latent else gpus)
        + held.query_up / (1 if layout.whole_query_up else gpus)
        + held.output / (1 if layout.whole_output else gpus)
    )
    ffn, embeddings, vision = held.ffn / gpus, held.embeddings / gpus, held.vision / gpus
    room = gpu.memory - attention - ffn - held.router - embeddings - vision
    kv_split = 1 if layout.whole_kv else gpus
    kv = kv_tokens * token_bytes / kv_split
    left = room - kv
    verdict: Verdict = "fits"
    if left < RESERVE_BYTES:
        verdict = "fits on paper only" if left >= 0 else "does not fit"
    return CardPlan(
        layout=layout.name,
        means=layout.means,
        attention=attention,
        ffn=ffn,
        router=held.router,
        embeddings=embeddings,
        vision=vision,
        kv=kv,
        left=left,
        kv_tokens_max=max(0, int(room * kv_split // token_bytes)),
        verdict=verdict,
    )
