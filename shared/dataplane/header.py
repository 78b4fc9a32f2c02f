"""The 128 bytes in front of every message, little-endian; docs/dataplane.md has the table.

Nothing in a header is trusted: a reader copies it out once, checks every number against its own
layout, and only then touches the payload.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from shared.dataplane.errors import ProtocolError
from shared.dataplane.layout import DTYPE_CODES, HEADER_BYTES, PROTOCOL_VERSION, Layout

MAGIC = 0x33504453  # "SDP3"


class Kind(IntEnum):
    """What a message is.

    PING and BYE are for sockets: with shared memory the kernel tells of the peer's end, and BYE's
    reason has a channel of its own. CREDIT and PONG are reserved: the answer is the credit, and the
    peer's kernel acknowledges a PING, however busy the peer is.
    """

    DISPATCH = 1
    COMBINE = 2
    CREDIT = 3
    PING = 4
    PONG = 5
    ERROR = 6
    BYE = 7


class Status(IntEnum):
    """Why an ERROR was sent instead of a COMBINE."""

    OK = 0
    COMPUTE_FAILED = 1


class Header(NamedTuple):
    """The fields in wire order. Offsets count from the start of the slot; times are in ns."""

    magic: int
    version: int
    kind: int
    flags: int
    session_epoch: int
    src: int
    dst: int
    seq: int
    step: int
    layer: int
    micro_batch: int
    lane: int
    slot: int
    n_slots: int
    n_tokens: int
    hidden: int
    top_k: int
    dtype: int
    scale_block: int
    ids_offset: int
    ids_bytes: int
    weights_offset: int
    weights_bytes: int
    scales_offset: int
    scales_bytes: int
    hidden_offset: int
    hidden_bytes: int
    payload_bytes: int
    credits: int
    deadline_us: int
    t_post_ns: int
    t_recv_ns: int
    t_done_ns: int
    crc32c: int
    status: int


_FIELDS = struct.Struct("<IBBH IHH Q QHBBHH IIHBB 8I I II QQQ IH 2x")
assert _FIELDS.size == HEADER_BYTES
# pack_into(buffer, offset, *fields of Header) and unpack_from(buffer, offset) -> tuple.
pack_into = _FIELDS.pack_into
_unpack_from = _FIELDS.unpack_from


def unpack(buffer: memoryview, offset: int) -> Header:
    """Copy a header out of memory that the peer can still write to."""
    return Header._make(_unpack_from(buffer, offset))


class HeaderCheck:
    """Checks one direction's headers against what this end knows."""

    def __init__(self, layout: Layout, kinds: tuple[Kind, ...], epoch: int) -> None:
        dispatch = Kind.DISPATCH in kinds
        self._sections = layout.dispatch if dispatch else layout.combine
        dtype = layout.dispatch_dtype if dispatch else layout.combine_dtype
        self._token_bytes = layout.hidden * dtype.itemsize
        self._kinds = frozenset(map(int, kinds))
        self._statuses = frozenset(map(int, Status))
        self._top_ks = frozenset((0, layout.top_k)) if dispatch else frozenset((0,))
        self._max_tokens = layout.max_tokens
        # One tuple comparison covers the constants; _explain names the field when it fails.
        self._constants: tuple[int, ...] = (
            MAGIC,
            PROTOCOL_VERSION,
            epoch,
            layout.slots,
            layout.hidden,
            DTYPE_CODES[dtype],
            0,
        )

    def sections(self, n_tokens: int, top_k: int) -> tuple[int, ...]:
        """ids_offset to payload_bytes of a message of `n_tokens`."""
        at = self._sections
        routing = n_tokens * top_k * 4
        hidden = n_tokens * self._token_bytes
        payload = 2 * routing + hidden
        return (at.expert_ids, routing, at.weights, routing, 0, 0, at.hidden, hidden, payload)

    def __call__(self, header: Header, slot: int) -> None:
        """Accept the header of the message in `slot`.

        Raises:
          ProtocolError: with the first field that is wrong.
        """
        found: tuple[int, ...] = (
            header.magic,
            header.version,
            header.session_epoch,
            header.n_slots,
            header.hidden,
            header.dtype,
            header.scale_block,
        )
        if (
            found != self._constants
            or header.kind not in self._kinds
            or header.status not in self._statuses
            or header.slot != slot
            or header.n_tokens > self._max_tokens
            or header.top_k not in self._top_ks
            or header[19:28] != self.sections(header.n_tokens, header.top_k)
        ):
            raise ProtocolError(self._explain(header, found, slot))

    def _explain(self, header: Header, found: tuple[int, ...], slot: int) -> str:
        names = ("magic", "version", "session_epoch", "n_slots", "hidden", "dtype", "scale_block")
        for name, value, expected in zip(names, found, self._constants, strict=True):
            if value != expected:
                return f"message header: {name} = {value}, expected {expected}"
        if header.kind not in self._kinds:
            return f"message header: kind = {header.kind}, expected one of {sorted(self._kinds)}"
        if header.status not in self._statuses:
            return f"message header: status = {header.status}, unknown"
        if header.slot != slot:
            return f"message header: slot = {header.slot}, found in slot {slot}"
        if header.n_tokens > self._max_tokens:
            return f"message header: n_tokens = {header.n_tokens}, at most {self._max_tokens}"
        if header.top_k not in self._top_ks:
            return f"message header: top_k = {header.top_k}, expected {sorted(self._top_ks)}"
        sections = self.sections(header.n_tokens, header.top_k)
        return f"message header: sections = {header[19:28]}, expected {sections}"
