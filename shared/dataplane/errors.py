"""What can go wrong between attention and FFN. None of these ever ends the process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from shared.errors import DeadlineExceeded, ResourceExhausted, Step3Error, Unavailable


class PeerLost(Unavailable):
    """The other process ended or closed the channel; no answer will come."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "PEER_LOST",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)


class PeerFailed(PeerLost):
    """The peer is there and could not compute this answer; the next step may succeed."""

    def __init__(self, message: str, *, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message, reason="PEER_FAILED", metadata=metadata)


class ChannelClosed(Unavailable):
    """This side closed the channel while, or before, the call was made."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="CHANNEL_CLOSED")


class ChannelTimeout(DeadlineExceeded):
    """The peer is alive and did not answer in time."""

    def __init__(self, message: str, *, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message, reason="DATA_PLANE_DEADLINE", metadata=metadata)


class Backpressure(ResourceExhausted):
    """Every slot is in flight: the peer is slower than the sender."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="DATA_PLANE_BACKPRESSURE")


class ProtocolError(Step3Error):
    """The peer sent what the contract forbids; the channel was closed."""

    code: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="DATA_PLANE_PROTOCOL")
