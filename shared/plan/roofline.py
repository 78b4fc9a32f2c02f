"""Arithmetic intensity of attention, and the sparsest MoE that a network can feed.

Step-3 report, sections 5.1 (intensity) and 5.3 to 5.4 (sparsity).
"""

from __future__ import annotations

from shared.plan.hardware import GPUS_PER_INSTANCE, Accelerator
from shared.plan.models import DecodeModel

# Attention, FFN and communication each take one micro-batch at a time.
PIPELINE_STAGES = 3
# A hidden number travels to the FFN side in 8 bits and back in 16.
WIRE_BYTES = 3


def intensity(model: DecodeModel, context: int) -> float:
    """FLOPs of attention for each KV element: for each byte of an 8-bit cache."""
    return model.core_flops(context) / model.kv_elements(context)


def wire_batch_limit(hidden: int, layers: int, network: float, tpot_s: float) -> float:
    """Tokens of a micro-batch that a network of `network` bytes/s carries in one stage's time.

    WIRE_BYTES x H x B / network <= TPOT / stages / L.
    """
    return network * tpot_s / PIPELINE_STAGES / (WIRE_BYTES * hidden * layers)


def dense_batch(gpu: Accelerator) -> float:
    """Tokens at which 8-bit weights take as long to read as to multiply: 2B = roofline."""
    return gpu.roofline / 2


def minimum_sparsity(
    hidden: int, layers: int, gpu: Accelerator, tpot_s: float, network: float | None = None
) -> float:
    """The least activated share of experts at which the GEMMs fill and the network still hides.

    A share S needs a micro-batch of dense_batch / S, and the network carries wire_batch_limit of
    them: S >= H x FLOPs x L / (network x bandwidth x TPOT / 3 x 2/3).

    Args:
      hidden: H.
      layers: L.
      gpu: of the FFN side. Its rates are for a card.
      tpot_s: time for one output token in seconds.
      network: bytes/s into one FFN instance; eight times the card's share without it.
    """
    per_instance = GPUS_PER_INSTANCE * gpu.network if network is None else network
    return dense_batch(gpu) / wire_batch_limit(hidden, layers, per_instance, tpot_s)
