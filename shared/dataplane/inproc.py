"""Both ends in one process: the channel of tests, and of services folded into one process."""

from __future__ import annotations

import mmap
import os
import queue
import secrets
import socket

from shared.dataplane.doorbell import Doorbell
from shared.dataplane.errors import ChannelTimeout, PeerLost
from shared.dataplane.layout import Layout
from shared.dataplane.mapped import MappedLink, mapped_bytes, require_store_order
from shared.errors import FailedPrecondition

# Listeners that wait for their attention end, by endpoint.
_waiting: dict[str, InprocListener] = {}


class InprocListener:
    """The FFN end, waiting for one attention end; the arguments are `ShmListener`'s."""

    def __init__(self, layout: Layout, bell: Doorbell, *, epoch: int, peer: str) -> None:
        require_store_order()
        self.layout = layout
        self.bell = bell
        self.epoch = epoch
        self.peer = peer
        self.endpoint = secrets.token_hex(16)
        self.handed_over: queue.SimpleQueue[MappedLink] = queue.SimpleQueue()
        _waiting[self.endpoint] = self

    def accept(self, timeout_s: float) -> MappedLink:
        """Wait for the attention end; closes the listener.

        Raises:
          ChannelTimeout: nobody came.
        """
        try:
            return self.handed_over.get(timeout=timeout_s)
        except queue.Empty:
            raise ChannelTimeout(
                f"{self.peer} (inproc): did not connect within {timeout_s:.1f} s"
            ) from None
        finally:
            self.close()

    def close(self) -> None:
        """Stop listening."""
        _waiting.pop(self.endpoint, None)


def connect(endpoint: str, layout: Layout, bell: Doorbell, *, peer: str) -> tuple[MappedLink, int]:
    """The attention end of a link, and the session's epoch; the arguments are `shm.connect`'s.

    Raises:
      PeerLost: nobody listens there.
      FailedPrecondition: the listener has other dimensions.
    """
    # Taken out at once: a listener is for one attention end.
    listener = _waiting.pop(endpoint, None)
    if listener is None:
        raise PeerLost(f"{peer} (inproc): nobody listens at {endpoint}")
    if listener.layout != layout:
        raise FailedPrecondition(
            f"{peer} (inproc) refused the channel: dimensions {layout.describe()}: this FFN has "
            f"{listener.layout.describe()}",
            reason="DATA_PLANE_MISMATCH",
        )
    memory = mmap.mmap(-1, mapped_bytes(layout))
    attention_end, ffn_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ffn = MappedLink(
        memory,
        layout,
        attention=False,
        transport="inproc",
        peer=listener.peer,
        bell=listener.bell,
        peer_bell_fd=os.dup(bell.fd),
        hangup=ffn_end,
    )
    attention = MappedLink(
        memory,
        layout,
        attention=True,
        transport="inproc",
        peer=peer,
        bell=bell,
        peer_bell_fd=os.dup(listener.bell.fd),
        hangup=attention_end,
    )
    listener.handed_over.put(ffn)
    return attention, listener.epoch
