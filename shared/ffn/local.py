"""The colocated FFN: the same layers as an FFN shard's, called in this process."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shared.ffn.backend import Routing, Ticket
from shared.kernels.api import FfnLayer


class LocalFfn:
    """`FfnBackend` without a wire: a micro-batch is computed when it is dispatched."""

    def __init__(self, layers: Sequence[FfnLayer], hidden: int) -> None:
        self._layers = layers
        self._hidden = hidden
        # By micro-batch: its answer stays untouched until its next dispatch.
        self._outputs: dict[int, Tensor] = {}

    def dispatch(
        self, step: int, layer: int, micro_batch: int, hidden_TH: Tensor, routing: Routing | None
    ) -> Ticket:
        tokens = hidden_TH.shape[0]
        out_TH = self._outputs.get(micro_batch)
        if out_TH is None or out_TH.shape[0] != tokens:
            out_TH = self._outputs[micro_batch] = torch.empty(tokens, self._hidden)
        self._layers[layer](hidden_TH, routing, out_TH)
        return Ticket(step, layer, micro_batch)

    def collect(self, ticket: Ticket) -> Tensor:
        return self._outputs[ticket.micro_batch]

    def describe(self) -> dict[str, str]:
        return {"ffn": "colocated"}

    def close(self) -> None:
        self._outputs.clear()
