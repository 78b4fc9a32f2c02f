"""What a transport has to provide: slot memory, a way to publish a slot, and news of the peer.

Everything else (headers, credits, order, deadlines) is in channel.py, once for all transports.
"""

from __future__ import annotations

from typing import Protocol

from shared.dataplane.doorbell import Doorbell


class Link(Protocol):
    """One end of a connection that delivers published slots in order, or is lost.

    One thread at a time calls everything but `close`, which any thread may call.
    """

    transport: str
    # Who is at the other end, for errors: "ffn shard 1 at 127.0.0.1:7331".
    peer: str
    # Rung for every arrival and for the peer's death.
    bell: Doorbell
    # Why the peer is gone, in words; None while it is there.
    lost: str | None

    def send_slots(self) -> memoryview:
        """The memory of the slots that this end writes, one after the other."""
        ...

    def recv_slots(self) -> memoryview:
        """The memory of the slots that arrive here."""
        ...

    def publish(self, slot: int) -> None:
        """Make a written slot visible to the peer and wake it."""
        ...

    def ready(self) -> bool:
        """Whether `take` has something."""
        ...

    def take(self) -> int | None:
        """The next arrived slot, or None.

        Raises:
          ProtocolError: the peer published what it cannot have.
        """
        ...

    def close(self, reason: str) -> None:
        """Tell the peer why and release everything. Calling it again does nothing."""
        ...
