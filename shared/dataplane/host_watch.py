"""Notices within 250 ms that the host at the other end of a TCP connection is gone.

A dead process is told by its kernel; a dead host or a cut cable is only silent. The peer's kernel
acknowledges data even when the process computes or is stopped, so data without acknowledgement
means that the host is gone. An idle connection therefore sends a PING now and then. Kernel timers
do not serve: keepalive counts in whole seconds, and TCP_USER_TIMEOUT would also end the connection
to a live peer that is too busy to read for that long.
"""

from __future__ import annotations

import socket
import struct
import time

from shared.dataplane.doorbell import TICK_NS

# With one tick until a PING is sent and one until its silence is seen, below 250 ms in all.
_SILENCE_NS = 175_000_000
# struct tcp_info of linux/tcp.h.
_unpack_number = struct.Struct("@I").unpack_from
_UNACKED_AT, _LAST_ACK_AT, _NOT_SENT_AT = 24, 56, 144
_INFO_BYTES = 148


class HostWatch:
    """Looked at about every TICK_NS; after a longer pause it starts anew."""

    verdict = "its host does not answer"

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._looked_ns = 0
        self._silent_since_ns = 0
        # Nothing is under way that would be acknowledged.
        self.quiet = False

    def alive(self) -> bool:
        """False when data has been without acknowledgement for too long."""
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        unacked, last_ack_ms, not_sent = (
            _unpack_number(info, at)[0] for at in (_UNACKED_AT, _LAST_ACK_AT, _NOT_SENT_AT)
        )
        now_ns = time.monotonic_ns()
        if not unacked or now_ns - self._looked_ns > 3 * TICK_NS:
            self._silent_since_ns = now_ns
        self._silent_since_ns = max(self._silent_since_ns, now_ns - last_ack_ms * 1_000_000)
        self._looked_ns = now_ns
        self.quiet = not unacked and not not_sent
        return now_ns - self._silent_since_ns < _SILENCE_NS
