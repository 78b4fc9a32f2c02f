"""A link over a connected stream socket: TCP, or a unix-domain socket.

Each end has the slots in memory of its own. A message is the header and then only the used bytes
of the slot's sections, sent from the slot and received into the slot of the same number. Nothing
else is buffered: what the kernel does not take at once waits in its slot, so neither side can
block the other by not reading, and memory is bounded by the slots.

There are no threads. Whoever waits on the bell, or looks whether something is there, also reads
and writes; what does not fit into the kernel's buffer goes on with the next such call.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import select
import socket
import struct
import threading
import time
import zlib
from collections import deque

from shared.dataplane.doorbell import Doorbell
from shared.dataplane.errors import ProtocolError
from shared.dataplane.header import MAGIC, Header, HeaderCheck, Kind, pack_into, unpack
from shared.dataplane.host_watch import HostWatch
from shared.dataplane.layout import HEADER_BYTES, PROTOCOL_VERSION, Layout

_MAX_REASON_BYTES = 500
# How long `close` goes on sending what was posted.
_LINGER_S = 0.1
_MAX_VIEWS = 64
_SECTIONS_AT = 52
_CRC_AT = 120
# (offset, bytes) of expert ids, weights, scales and hidden states, as in the header.
_unpack_sections = struct.Struct("<8I").unpack_from
_pack_crc = struct.Struct("<I").pack_into
_GONE = frozenset((errno.EPIPE, errno.ECONNRESET))


class StreamLink:
    """One end of a channel over a stream socket; see `link.Link`.

    Args:
      connection: connected and past the handshake; owned.
      layout: of the channel, as at the other end.
      epoch: of the session; a message of another one is refused.
      attention: whether this is the attention end.
      transport: its name, for errors.
      peer: who is at the other end, for errors.
      bell: this end's bell.
      host_watch: notices the death of the peer's host; None when it is this one.
    """

    def __init__(
        self,
        connection: socket.socket,
        layout: Layout,
        *,
        epoch: int,
        attention: bool,
        transport: str,
        peer: str,
        bell: Doorbell,
        host_watch: HostWatch | None = None,
    ) -> None:
        self.transport = transport
        self.peer = peer
        self.bell = bell
        self.lost: str | None = None
        sent, received = layout.dispatch.slot_bytes, layout.combine.slot_bytes
        kinds: tuple[Kind, ...] = (Kind.COMBINE, Kind.ERROR)
        if not attention:
            sent, received, kinds = received, sent, (Kind.DISPATCH,)
        self._send_slot_bytes, self._receive_slot_bytes = sent, received
        self._send_slots = _memory(layout.slots * sent)
        self._receive_slots = _memory(layout.slots * received)
        self._check = HeaderCheck(layout, kinds, epoch)
        self._n_slots = layout.slots
        self._epoch = epoch
        self._host_watch = host_watch
        # Parts of messages on their way out, and the parts to fill with what comes in.
        self._outbox: deque[memoryview] = deque()
        self._awaits_output = False
        self._header = memoryview(bytearray(HEADER_BYTES))
        self._inbox: deque[memoryview] = deque((self._header,))
        # The message whose payload the inbox waits for.
        self._arriving: Header | None = None
        self._reason = memoryview(bytearray(_MAX_REASON_BYTES))
        self._arrived: deque[int] = deque()
        self._violation: ProtocolError | None = None
        # Held while using the socket and while closing it: none is used after recycling.
        self._lock = threading.Lock()
        self._closed = False
        self._socket = connection
        connection.setblocking(False)
        on_tick = None if host_watch is None else self._on_tick
        bell.watch(connection.fileno(), self._on_event, on_tick)

    def send_slots(self) -> memoryview:
        """The memory of the slots that this end writes."""
        return self._send_slots

    def recv_slots(self) -> memoryview:
        """The memory of the slots that arrive here."""
        return self._receive_slots

    def publish(self, slot: int) -> None:
        """Send a written slot, as much as the kernel takes now; never waits."""
        memory, start = self._send_slots, slot * self._send_slot_bytes
        sections = _unpack_sections(memory, start + _SECTIONS_AT)
        header = memory[start : start + HEADER_BYTES]
        _seal(header)
        with self._lock:
            self._outbox.append(header)
            for offset, size in zip(sections[::2], sections[1::2], strict=True):
                if part := memory[start + offset : start + offset + size]:
                    self._outbox.append(part)
            self._flush()

    def ready(self) -> bool:
        """Whether `take` has something; reads and writes what the kernel has and takes."""
        if not self._arrived:
            with self._lock:
                if self._outbox:
                    self._flush()
                self._fill()
        return bool(self._arrived) or self._violation is not None

    def take(self) -> int | None:
        """The next arrived slot, or None.

        Raises:
          ProtocolError: a header that breaks the contract, or more messages than slots.
        """
        if not self.ready():
            return None
        if self._arrived:
            return self._arrived.popleft()
        assert self._violation is not None
        raise self._violation

    def _on_event(self) -> None:
        """Called by the bell when the socket can be read from, or written to, or is dead."""
        with self._lock:
            self._flush()
            self._fill()

    def _on_tick(self) -> None:
        """Called by the bell every 25 ms while somebody waits."""
        with self._lock:
            if self._over():
                return
            assert self._host_watch is not None
            if not self._host_watch.alive():
                self._lose(self._host_watch.verdict)
            elif self._host_watch.quiet and not self._outbox:
                self._outbox.append(self._control(Kind.PING, b""))
                self._flush()

    def _over(self) -> bool:
        return self._closed or self.lost is not None or self._violation is not None

    def _flush(self) -> None:
        """Send until all is sent or the kernel's buffer is full."""
        if self._over():
            return
        while self._outbox:
            views = [self._outbox[i] for i in range(min(len(self._outbox), _MAX_VIEWS))]
            try:
                _skip(self._outbox, self._socket.sendmsg(views, (), socket.MSG_NOSIGNAL))
            except BlockingIOError:
                break
            except OSError as error:
                # What the peer sent before it went, a reason perhaps, is still to be read.
                self._outbox.clear()
                if error.errno not in _GONE:
                    self._lose(f"the connection broke: {error.strerror}")
                    return
        if bool(self._outbox) != self._awaits_output:
            self._awaits_output = not self._awaits_output
            self.bell.watch_output(self._socket.fileno(), self._awaits_output)

    def _fill(self) -> None:
        """Receive until the kernel has nothing more."""
        while not self._over():
            try:
                if len(self._inbox) == 1:
                    n_bytes = self._socket.recv_into(self._inbox[0])
                else:
                    n_bytes = self._socket.recvmsg_into(self._inbox)[0]
            except BlockingIOError:
                return
            except OSError as error:
                gone = error.errno in _GONE
                self._lose(
                    "its process ended" if gone else f"the connection broke: {error.strerror}"
                )
                return
            if n_bytes == 0:
                self._lose("its process ended")
                return
            _skip(self._inbox, n_bytes)
            if not self._inbox:
                try:
                    self._advance()
                except ProtocolError as error:
                    self._violation = error
                    self._unwatch()

    def _advance(self) -> None:
        """The header, or the payload, that the inbox waited for is complete."""
        header = self._arriving
        if header is None:
            header = self._checked()
            start = header.slot * self._receive_slot_bytes
            if header.kind == Kind.BYE:
                self._inbox.append(self._reason[: header.payload_bytes])
            elif header.kind != Kind.PING:
                sections = header[19:27]
                for offset, size in zip(sections[::2], sections[1::2], strict=True):
                    if size:
                        at = start + offset
                        self._inbox.append(self._receive_slots[at : at + size])
            if self._inbox:
                self._arriving = header
                return
        self._arriving = None
        self._inbox.append(self._header)
        if header.kind == Kind.BYE:
            reason = bytes(self._reason[: header.payload_bytes])
            self._lose(f"it hung up ({reason.decode(errors='replace')})")
        elif header.kind != Kind.PING:
            if len(self._arrived) == self._n_slots:
                raise ProtocolError(f"more messages in flight than the {self._n_slots} slots")
            start = header.slot * self._receive_slot_bytes
            self._receive_slots[start : start + HEADER_BYTES] = self._header
            self._arrived.append(header.slot)

    def _checked(self) -> Header:
        """The header that has arrived; its lengths can be relied on."""
        header = unpack(self._header, 0)
        _seal(self._header)
        if unpack(self._header, 0).crc32c != header.crc32c:
            raise ProtocolError(f"message header: checksum = {header.crc32c:#010x} does not match")
        if header.kind not in (Kind.PING, Kind.BYE):
            if header.slot >= self._n_slots:
                raise ProtocolError(
                    f"message header: slot = {header.slot}, with {self._n_slots} slots"
                )
            self._check(header, header.slot)
            return header
        expected = (MAGIC, PROTOCOL_VERSION, self._epoch)
        if (header.magic, header.version, header.session_epoch) != expected:
            raise ProtocolError(
                f"message header: magic, version, session_epoch = {header.magic}, "
                f"{header.version}, {header.session_epoch}, expected {expected}"
            )
        low, high = (0, 0) if header.kind == Kind.PING else (1, _MAX_REASON_BYTES)
        if not low <= header.payload_bytes <= high:
            raise ProtocolError(f"message header: payload_bytes = {header.payload_bytes}")
        return header

    def _control(self, kind: Kind, payload: bytes) -> memoryview:
        """A PING or BYE."""
        message = memoryview(bytearray(HEADER_BYTES + len(payload)))
        fields = {"magic": MAGIC, "version": PROTOCOL_VERSION, "kind": kind}
        fields |= {"session_epoch": self._epoch, "payload_bytes": len(payload)}
        pack_into(message, 0, *(fields.get(name, 0) for name in Header._fields))
        _seal(message[:HEADER_BYTES])
        message[HEADER_BYTES:] = payload
        return message

    def _lose(self, why: str) -> None:
        self.lost = why
        self._unwatch()

    def _unwatch(self) -> None:
        # A dead socket stays readable: watched any longer it would keep every waiter awake.
        self.bell.unwatch(self._socket.fileno())

    def close(self, reason: str) -> None:
        """Send what was posted and why this end goes, within 100 ms, and hang up."""
        with self._lock:
            if self._closed:
                return
            if self.lost is None:
                self._violation = None
                text = (reason or "closed").encode()[:_MAX_REASON_BYTES]
                self._outbox.append(self._control(Kind.BYE, text))
                self._say_goodbye()
            self._closed = True
            self._unwatch()
            self._socket.close()

    def _say_goodbye(self) -> None:
        deadline = time.monotonic() + _LINGER_S
        writable = select.poll()
        writable.register(self._socket.fileno(), select.POLLOUT)
        self._flush()
        while self._outbox and self.lost is None and (left := deadline - time.monotonic()) > 0:
            writable.poll(left * 1e3)
            self._flush()
        # TCP answers a close with unread input by a reset, which may overtake the goodbye.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while self._socket.recv(1 << 16) and time.monotonic() < deadline:
                pass


def _memory(size: int) -> memoryview:
    """Zeroed, page-aligned, and gone with the last view of it."""
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _seal(header: memoryview) -> None:
    """Write the CRC-32 of a header, itself taken as 0."""
    _pack_crc(header, _CRC_AT, 0)
    _pack_crc(header, _CRC_AT, zlib.crc32(header))


def _skip(views: deque[memoryview], n_bytes: int) -> None:
    """Cut `n_bytes` off the front."""
    while n_bytes:
        if n_bytes < len(views[0]):
            views[0] = views[0][n_bytes:]
            return
        n_bytes -= len(views.popleft())
