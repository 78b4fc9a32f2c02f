"""What a decoded token costs in USD at peak rates (Step-3 report, section 4.2).

cost = max(core FLOPs x USD/FLOP, KV bytes x USD/byte)     attention without its projections
     + projection FLOPs x USD/FLOP                         on the attention accelerator
     + FFN FLOPs x USD/FLOP                                on the FFN accelerator

Communication is taken to be hidden, and weight reads to be shared by a large enough batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shared.plan.hardware import ACCELERATORS, PRICED, Accelerator
from shared.plan.models import DecodeModel

_MILLION = 1_000_000


def attention_cost(model: DecodeModel, context: int, gpu: Accelerator) -> float:
    """USD for the attention side of a million tokens at `context` tokens of KV each."""
    core = max(
        model.core_flops(context) * gpu.usd_per_flop, model.kv_bytes(context) * gpu.usd_per_byte
    )
    return _MILLION * (core + model.linear_flops * gpu.usd_per_flop)


def ffn_cost(model: DecodeModel, gpu: Accelerator) -> float:
    """USD for the FFN side of a million tokens."""
    return _MILLION * model.ffn_flops * gpu.usd_per_flop


@dataclass(frozen=True, slots=True)
class BestDeployment:
    """The cheapest accelerator for each side, and USD for a million tokens of both."""

    attention: str
    ffn: str
    usd: float


def best_deployment(
    model: DecodeModel, context: int, gpus: Iterable[str] = PRICED
) -> BestDeployment:
    """Choose each side's accelerator on its own, as disaggregation allows."""
    cards = [ACCELERATORS[name] for name in gpus]
    attention = min(cards, key=lambda gpu: attention_cost(model, context, gpu))
    ffn = min(cards, key=lambda gpu: ffn_cost(model, gpu))
    usd = attention_cost(model, context, attention) + ffn_cost(model, ffn)
    return BestDeployment(attention.name, ffn.name, usd)
