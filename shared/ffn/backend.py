"""The seam between attention and FFN: who computes a layer's FFN, and where.

The colocated engine and the disaggregated one differ in this object only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

# Dimension key: T tokens, H hidden, K experts chosen per token


@dataclass(frozen=True, slots=True)
class Routing:
    """The router's choice for T tokens."""

    expert_ids_TK: Tensor  # int32
    weights_TK: Tensor  # float32


@dataclass(frozen=True, slots=True)
class Ticket:
    """A dispatched micro-batch whose answer has not been collected yet."""

    step: int
    layer: int
    micro_batch: int


class FfnBackend(Protocol):
    """Computes FFN(y) of one layer for the tokens of one micro-batch.

    One dispatch of a micro-batch is in flight at a time; different micro-batches overlap.
    """

    def dispatch(
        self, step: int, layer: int, micro_batch: int, hidden_TH: Tensor, routing: Routing | None
    ) -> Ticket:
        """Start the FFN of `layer` on normalised hidden states (float32, contiguous, T >= 0).

        `routing` is None on dense layers. `hidden_TH` may be reused once this returns.
        """
        ...

    def collect(self, ticket: Ticket) -> Tensor:
        """Wait for the answer: [T, H] float32, routed plus shared experts, before the residual.

        The tensor may be a view of transport memory: it is valid until the next dispatch of the
        same micro-batch.

        Raises:
          PeerLost: a shard went away; the step's requests cannot be finished.
          DeadlineExceeded: a shard is alive and did not answer in time.
        """
        ...

    def describe(self) -> dict[str, str]:
        """Facts for the server info: where the FFN runs, the transport, the shards."""
        ...

    def close(self) -> None:
        """Release peers and memory. Every later call raises."""
        ...
