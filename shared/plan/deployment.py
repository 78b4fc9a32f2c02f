"""How many cards each side of a disaggregated deployment needs, and how long its stages take.

The model is the report's (arXiv 2507.19427, sections 5.4, 6 and 7): three stages (attention, FFN,
communication) work on three micro-batches at once, so each has TPOT / 3 for all layers of one.
Every attention card serves its own requests, with o_proj split over the eight cards of its
instance; every FFN instance receives every token. Rates are peak rates: real kernels reach a part
of them, so the card counts are lower bounds and the throughput is an upper one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from shared.errors import InvalidArgument
from shared.model.config import Step3Config
from shared.plan.hardware import GPUS_PER_INSTANCE, Accelerator, Dtype
from shared.plan.memory import KV_BYTES, RESERVE_BYTES, KvDtype, WeightBytes, weight_bytes
from shared.plan.models import DecodeModel, from_config
from shared.plan.roofline import (
    PIPELINE_STAGES,
    WIRE_BYTES,
    minimum_sparsity,
    wire_batch_limit,
)

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A model in storage types, at `context` cached tokens a sequence."""

    model: DecodeModel
    held: WeightBytes
    context: int
    weights: Dtype
    kv: KvDtype

    @classmethod
    def of(
        cls, config: Step3Config, *, context: int, weights: Dtype, kv: KvDtype, name: str = ""
    ) -> Workload:
        """Derive everything from the configuration.

        Raises:
          InvalidArgument: the model has no `context` positions.
        """
        positions = config.text.max_position_embedding
        if not 1 <= context <= positions:
            raise InvalidArgument(
                f"context = {context}: must be in 1..{positions}, the positions of the model",
                reason="OUT_OF_RANGE",
                field="context",
            )
        return cls(
            model=from_config(config, name),
            held=weight_bytes(config, weights),
            context=context,
            weights=weights,
            kv=kv,
        )

    @property
    def sequence_bytes(self) -> int:
        """KV cache of one sequence."""
        return self.model.kv_elements(self.context) * KV_BYTES[self.kv]

    @property
    def intensity(self) -> float:
        """FLOPs of core attention for each byte of KV cache that is read."""
        return self.model.core_flops(self.context) / self.sequence_bytes

    def core_rate(self, gpu: Accelerator) -> float:
        """FLOP/s of core attention: it multiplies in the type that the cache has."""
        return gpu.rate("fp8" if self.kv == "fp8" else "bf16")

    @property
    def attention_read(self) -> float:
        """Bytes of attention weights that one card reads for a micro-batch."""
        return self.held.latent + self.held.query_up + self.held.output / GPUS_PER_INSTANCE

    @property
    def attention_held(self) -> float:
        """Bytes of weights on one attention card: token tables and router are whole."""
        return self.attention_read + self.held.embeddings + self.held.router

    @property
    def linear_dtype(self) -> Dtype:
        """In int8 storage attention stays bf16."""
        return "fp8" if self.weights == "fp8" else "bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionTimes:
    """Seconds, for all layers of one micro-batch on one attention card."""

    kv_read: float
    core_compute: float
    weight_read: float
    linear_compute: float

    @property
    def total(self) -> float:
        return max(self.kv_read, self.core_compute) + max(self.weight_read, self.linear_compute)


@dataclass(frozen=True, slots=True, kw_only=True)
class FfnTimes:
    """Seconds, for all layers of one micro-batch on the FFN side."""

    weight_read: float
    compute: float

    @property
    def total(self) -> float:
        return max(self.weight_read, self.compute)


def attention_times(work: Workload, gpu: Accelerator, sequences: float) -> AttentionTimes:
    """Times of a micro-batch of `sequences` on one card."""
    return AttentionTimes(
        kv_read=sequences * work.sequence_bytes / gpu.bandwidth,
        core_compute=sequences * work.model.core_flops(work.context) / work.core_rate(gpu),
        weight_read=work.attention_read / gpu.bandwidth,
        linear_compute=sequences * work.model.linear_flops / gpu.rate(work.linear_dtype),
    )


def ffn_times(work: Workload, gpu: Accelerator, gpus: int, tokens: float) -> FfnTimes:
    """Times of a micro-batch of `tokens` on `gpus` cards, all experts loaded evenly."""
    return FfnTimes(
        weight_read=work.held.ffn / gpus / gpu.bandwidth,
        compute=tokens * work.model.ffn_flops / gpus / gpu.rate(work.weights),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentPlan:
    """The smallest balanced deployment. Times in seconds, for all layers of a micro-batch.

    `attention_roofline` is FLOPs for a byte on the attention card, to compare with the intensity;
    `minimum_sparsity` is the least share of activated experts that fills the FFN cards' GEMMs.
    """

    attention_gpu: str
    attention_gpus: int
    attention_bound: str
    ffn_gpu: str
    ffn_gpus: int
    ffn_bound: str
    micro_batch: int
    sequences_per_attention_gpu: int
    stage_budget_s: float
    layer_budget_s: float
    attention_s: float
    ffn_s: float
    wire_s: float
    attention_memory_bytes: float
    ffn_memory_bytes: float
    tokens_per_s: float
    tokens_per_gpu_s: float
    usd_per_million_tokens: float | None
    attention_roofline: float
    minimum_sparsity: float


def plan_deployment(
    work: Workload, gpu: Accelerator, ffn_gpu: Accelerator, tpot_s: float
) -> DeploymentPlan:
    """The least FFN instances that hold and read the weights in time, and attention to feed them.

    Args:
      work: the model and its context length.
      gpu: kind of the attention cards.
      ffn_gpu: kind of the FFN cards.
      tpot_s: time for one output token, in seconds.

    Raises:
      InvalidArgument: the time is not positive, or no number of these cards can do it.
    """
    if not (tpot_s > 0 and math.isfinite(tpot_s)):
        raise InvalidArgument(
            f"tpot = {tpot_s * 1e3:g} ms: must be positive", reason="OUT_OF_RANGE", field="tpot"
        )
    model, budget = work.model, tpot_s / PIPELINE_STAGES
    instances = max(
        math.ceil(work.held.ffn / GPUS_PER_INSTANCE / limit)
        for limit in (ffn_gpu.memory - RESERVE_BYTES, ffn_gpu.bandwidth * budget)
    )
    ffn_gpus = instances * GPUS_PER_INSTANCE
    tokens, ffn_bound = min(
        (budget / ffn_times(work, ffn_gpu, ffn_gpus, 1).compute, "compute"),
        (
            wire_batch_limit(
                model.hidden, model.layers, GPUS_PER_INSTANCE * ffn_gpu.network, tpot_s
            ),
            "network",
        ),
    )
    per_card, attention_bound = _sequences(work, gpu, instances, tpot_s)
    if int(tokens) < 1:
        raise InvalidArgument(
            f"tpot = {tpot_s * 1e3:g} ms: too short for one token on {ffn_gpus} {ffn_gpu.name}: "
            "give more time or a faster ffn-gpu",
            reason="DOES_NOT_FIT",
            field="tpot",
        )
    attention_gpus = GPUS_PER_INSTANCE * math.ceil(int(tokens) / per_card / GPUS_PER_INSTANCE)
    micro_batch = int(tokens)
    in_flight = PIPELINE_STAGES * micro_batch
    sequences = math.ceil(micro_batch / attention_gpus)
    tokens_per_s = in_flight / tpot_s
    usd = None
    if gpu.usd_per_hour is not None and ffn_gpu.usd_per_hour is not None:
        usd_per_s = (attention_gpus * gpu.usd_per_hour + ffn_gpus * ffn_gpu.usd_per_hour) / 3600
        usd = _MILLION * usd_per_s / tokens_per_s
    # The busier of the two ends: one FFN card's NIC, or one attention card's.
    wire_bytes = WIRE_BYTES * model.hidden * model.layers
    wire_s = max(
        wire_bytes * micro_batch / (GPUS_PER_INSTANCE * ffn_gpu.network),
        wire_bytes * sequences * instances / gpu.network,
    )
    return DeploymentPlan(
        attention_gpu=gpu.name,
        attention_gpus=attention_gpus,
        attention_bound=attention_bound,
        ffn_gpu=ffn_gpu.name,
        ffn_gpus=ffn_gpus,
        ffn_bound=ffn_bound,
        micro_batch=micro_batch,
        sequences_per_attention_gpu=PIPELINE_STAGES * sequences,
        stage_budget_s=budget,
        layer_budget_s=budget / model.layers,
        attention_s=attention_times(work, gpu, sequences).total,
        ffn_s=ffn_times(work, ffn_gpu, ffn_gpus, micro_batch).total,
        wire_s=wire_s,
        attention_memory_bytes=work.attention_held
        + PIPELINE_STAGES * sequences * work.sequence_bytes,
        ffn_memory_bytes=work.held.ffn / ffn_gpus,
        tokens_per_s=tokens_per_s,
        tokens_per_gpu_s=tokens_per_s / (attention_gpus + ffn_gpus),
        usd_per_million_tokens=usd,
        attention_roofline=work.core_rate(gpu) / gpu.bandwidth,
        minimum_sparsity=minimum_sparsity(model.hidden, model.layers, ffn_gpu, tpot_s),
    )


def _sequences(work: Workload, gpu: Accelerator, instances: int, tpot_s: float) -> tuple[int, str]:
    """The most sequences of a micro-batch on one attention card, and what limits them."""
    budget = tpot_s / PIPELINE_STAGES
    one = attention_times(work, gpu, 1)
    core = max(one.kv_read, one.core_compute)
    model = work.model
    limit, bound = min(
        (
            (gpu.memory - RESERVE_BYTES - work.attention_held)
            / (PIPELINE_STAGES * work.sequence_bytes),
            "memory",
        ),
        # The stage is core + max(weight read, linear compute): the budget bounds both sums.
        (
            min((budget - one.weight_read) / core, budget / (core + one.linear_compute)),
            "KV reads" if one.kv_read >= one.core_compute else "attention compute",
        ),
        (
            wire_batch_limit(model.hidden, model.layers, gpu.network, tpot_s) / instances,
            "network",
        ),
    )
    if limit < 1:
        raise InvalidArgument(
            f"gpu = {gpu.name!r}: cannot serve one sequence in each of {PIPELINE_STAGES} "
            f"micro-batches at context = {work.context} and tpot = {tpot_s * 1e3:g} ms "
            f"(limit: {bound}); give more time, a shorter context or another gpu",
            reason="DOES_NOT_FIT",
            field="gpu",
        )
    return int(limit), bound
