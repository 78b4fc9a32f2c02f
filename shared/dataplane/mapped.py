"""A link over memory that both ends map: publishing is two stores and a ring of the peer's bell.

The control words of each direction lie on cache lines of their own:

    0     tail of the dispatch ring: messages published so far
    64    tail of the combine ring
    128   dispatch ring: slot numbers, one u64 for each entry
    ...   combine ring, then (page-aligned) dispatch slots, combine slots

A tail is written by one side only. The reader's position needs no word in memory: a slot is
posted again only after its answer, so neither ring can overtake its reader.

Publishing stores the payload, the ring entry, then the tail. x86-64 keeps stores in order (total
store order), so whoever sees the new tail sees the payload. Weaker machines would need a release
store, which Python does not offer; `require_store_order` refuses them.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import socket
import threading

from shared.dataplane.doorbell import Doorbell
from shared.dataplane.errors import ProtocolError
from shared.dataplane.layout import Layout
from shared.errors import FailedPrecondition

_LINE = 64
_PAGE = 4096
_MAX_REASON_BYTES = 500


def require_store_order() -> None:
    """Refuse machines on which another core may see the tail before the payload.

    Raises:
      FailedPrecondition: this is not x86-64.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        raise FailedPrecondition(
            f"shared-memory transports need x86-64's store order; this is {platform.machine()}",
            reason="TRANSPORT_UNAVAILABLE",
        )


def _ring_bytes(layout: Layout) -> int:
    return -(-layout.slots * 8 // _LINE) * _LINE


def _control_bytes(layout: Layout) -> int:
    return -(-(2 * _LINE + 2 * _ring_bytes(layout)) // _PAGE) * _PAGE


def mapped_bytes(layout: Layout) -> int:
    """Size of a channel's mapping."""
    return _control_bytes(layout) + layout.channel_bytes


class MappedLink:
    """One end of a channel in mapped memory; see `link.Link`.

    Args:
      memory: `mapped_bytes(layout)` zeroed bytes that the other end maps too.
      attention: whether this is the attention end.
      bell: this end's bell.
      peer_bell_fd: the other end's; owned by the link from here on.
      hangup: a SOCK_SEQPACKET socket to the other end, owned; its end-of-file is the peer's end.
      pidfd: of the peer's process, owned; None when the peer is not visible as a process.
    """

    def __init__(
        self,
        memory: mmap.mmap,
        layout: Layout,
        *,
        attention: bool,
        transport: str,
        peer: str,
        bell: Doorbell,
        peer_bell_fd: int,
        hangup: socket.socket,
        pidfd: int | None = None,
    ) -> None:
        self.transport = transport
        self.peer = peer
        self.bell = bell
        self.lost: str | None = None
        view = memoryview(memory)
        ring, control = _ring_bytes(layout), _control_bytes(layout)
        tails = [view[at : at + 8].cast("Q") for at in (0, _LINE)]
        rings = [view[at : at + ring].cast("Q") for at in (2 * _LINE, 2 * _LINE + ring)]
        middle = control + layout.slots * layout.dispatch.slot_bytes
        slots = [view[control:middle], view[middle : mapped_bytes(layout)]]
        send, receive = (0, 1) if attention else (1, 0)
        self._send_tail, self._receive_tail = tails[send], tails[receive]
        self._send_ring, self._receive_ring = rings[send], rings[receive]
        self._send_slots, self._receive_slots = slots[send], slots[receive]
        self._n_slots = layout.slots
        self._published = 0
        self._taken = 0
        self._peer_bell_fd = peer_bell_fd
        self._hangup = hangup
        self._pidfd = pidfd
        # Held while using the descriptors and while closing them: none is used after recycling.
        self._lock = threading.Lock()
        self._closed = False
        hangup.setblocking(False)
        bell.watch(hangup.fileno(), self._on_hangup)
        if pidfd is not None:
            bell.watch(pidfd, self._on_hangup)

    def send_slots(self) -> memoryview:
        """The memory of the slots that this end writes."""
        return self._send_slots

    def recv_slots(self) -> memoryview:
        """The memory of the slots that arrive here."""
        return self._receive_slots

    def publish(self, slot: int) -> None:
        """Make a written slot visible to the peer and wake it."""
        self._send_ring[self._published % self._n_slots] = slot
        self._published += 1
        self._send_tail[0] = self._published
        # Always rung: skipping it when the peer seems awake would need a fence between the store
        # above and the look at the peer.
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._peer_bell_fd, 1)

    def ready(self) -> bool:
        """Whether `take` has something."""
        return self._receive_tail[0] != self._taken

    def take(self) -> int | None:
        """The next arrived slot, or None.

        Raises:
          ProtocolError: the tail or the ring entry is impossible.
        """
        tail = self._receive_tail[0]
        if tail == self._taken:
            return None
        if not 0 < tail - self._taken <= self._n_slots:
            raise ProtocolError(
                f"ring tail = {tail} after {self._taken}, with {self._n_slots} slots"
            )
        slot = self._receive_ring[self._taken % self._n_slots]
        if slot >= self._n_slots:
            raise ProtocolError(f"ring entry = {slot} with {self._n_slots} slots")
        self._taken += 1
        return slot

    def _on_hangup(self) -> None:
        """Called by the bell when the peer hung up or its process ended."""
        with self._lock:
            if self._closed:
                return
            try:
                reason = self._hangup.recv(_MAX_REASON_BYTES, socket.MSG_DONTWAIT)
            except OSError:
                reason = b""
            text = reason.decode(errors="replace")
            self.lost = f"it hung up ({text})" if text else "its process ended"
            self._unwatch()

    def _unwatch(self) -> None:
        self.bell.unwatch(self._hangup.fileno())
        if self._pidfd is not None:
            self.bell.unwatch(self._pidfd)

    def close(self, reason: str) -> None:
        """Tell the peer why and release every descriptor. Calling it again does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            # The peer may be gone already, and then there is nobody to tell.
            with contextlib.suppress(OSError):
                self._hangup.send(reason.encode()[:_MAX_REASON_BYTES], socket.MSG_NOSIGNAL)
            self._unwatch()
            self._hangup.close()
            os.close(self._peer_bell_fd)
            if self._pidfd is not None:
                os.close(self._pidfd)
