"""Clients of the services: one channel a target, deadlines within deadlines."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import grpc

from shared.errors import DeadlineExceeded
from shared.rpc.options import CLIENT_OPTIONS
from shared.rpc.status import RpcError

__all__ = ["Channels", "RpcError", "inner_deadline", "open_channel"]

# What an inner call leaves of the outer deadline for the answer's way back.
DEADLINE_MARGIN_S = 0.05


def open_channel(target: str) -> grpc.Channel:
    """A blocking channel to host:port, for programs without an event loop."""
    return grpc.insecure_channel(target, options=CLIENT_OPTIONS)


class Channels:
    """The channels of one event loop: one for each target, as long as the process lives."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}

    def get(self, target: str) -> grpc.aio.Channel:
        """The channel to host:port, opened at first use."""
        if target not in self._channels:
            self._channels[target] = grpc.aio.insecure_channel(target, options=CLIENT_OPTIONS)
        return self._channels[target]

    async def close(self) -> None:
        """Close all; calls in flight are cancelled."""
        while self._channels:
            _, channel = self._channels.popitem()
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def inner_deadline(context: grpc.aio.ServicerContext[Any, Any], default_s: float) -> float:
    """Seconds that a call made on behalf of `context`'s caller may take.

    Args:
      context: the outer call.
      default_s: the outer deadline when the caller has set none.

    Raises:
      DeadlineExceeded: nothing is left to do the work in.
    """
    remaining: float | None = context.time_remaining()
    left = (default_s if remaining is None else remaining) - DEADLINE_MARGIN_S
    if left <= 0:
        raise DeadlineExceeded(
            "the deadline left no time to answer; set a longer one", reason="DEADLINE_TOO_SHORT"
        )
    return left
