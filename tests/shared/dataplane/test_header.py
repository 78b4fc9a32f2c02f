from __future__ import annotations

import struct

import pytest

from shared.dataplane.errors import ProtocolError
from shared.dataplane.header import MAGIC, Header, HeaderCheck, Kind, pack_into, unpack
from shared.dataplane.layout import HEADER_BYTES, PROTOCOL_VERSION, Layout

LAYOUT = Layout(hidden=16, top_k=3, max_tokens=8, slots=4)


def good(n_tokens: int = 2, top_k: int = 3) -> Header:
    check = HeaderCheck(LAYOUT, (Kind.DISPATCH,), epoch=9)
    return Header(
        MAGIC, PROTOCOL_VERSION, Kind.DISPATCH, 0, 9, 1, 2, 3, 4, 5, 6, 0, 1, 4,
        n_tokens, 16, top_k, 1, 0, *check.sections(n_tokens, top_k),
        0, 250, 10, 11, 12, 0, 0,
    )  # fmt: skip


def test_every_field_survives_the_wire_at_any_offset():
    header = Header(*range(1, len(Header._fields) + 1))
    memory = bytearray(b"\xff" * 512)
    pack_into(memory, 256, *header)
    assert unpack(memoryview(memory), 256) == header
    assert memory[256 + HEADER_BYTES :] == b"\xff" * (256 - HEADER_BYTES)


# Written out by hand from the table in docs/dataplane.md: other programs read these bytes.
@pytest.mark.parametrize(
    ("field", "offset", "code"),
    [
        ("magic", 0, "<I"),
        ("version", 4, "<B"),
        ("kind", 5, "<B"),
        ("session_epoch", 8, "<I"),
        ("seq", 16, "<Q"),
        ("step", 24, "<Q"),
        ("layer", 32, "<H"),
        ("micro_batch", 34, "<B"),
        ("slot", 36, "<H"),
        ("n_tokens", 40, "<I"),
        ("hidden", 44, "<I"),
        ("top_k", 48, "<H"),
        ("dtype", 50, "<B"),
        ("ids_offset", 52, "<I"),
        ("hidden_bytes", 80, "<I"),
        ("payload_bytes", 84, "<I"),
        ("credits", 88, "<I"),
        ("deadline_us", 92, "<I"),
        ("t_post_ns", 96, "<Q"),
        ("t_done_ns", 112, "<Q"),
        ("crc32c", 120, "<I"),
        ("status", 124, "<H"),
    ],
)
def test_the_bytes_are_where_the_table_says(field, offset, code):
    header = Header(*range(1, len(Header._fields) + 1))
    memory = bytearray(HEADER_BYTES)
    pack_into(memory, 0, *header)
    assert struct.unpack_from(code, memory, offset)[0] == getattr(header, field)


@pytest.mark.parametrize(("n_tokens", "top_k"), [(0, 0), (0, 3), (1, 3), (8, 3), (8, 0)])
def test_what_this_end_writes_is_accepted(n_tokens, top_k):
    HeaderCheck(LAYOUT, (Kind.DISPATCH,), epoch=9)(good(n_tokens, top_k), 1)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("magic", 0, "magic = 0, expected 860898387"),
        ("version", 2, "version = 2, expected 1"),
        ("session_epoch", 8, "session_epoch = 8, expected 9"),
        ("n_slots", 5, "n_slots = 5, expected 4"),
        ("hidden", 32, "hidden = 32, expected 16"),
        ("dtype", 2, "dtype = 2, expected 1"),
        ("scale_block", 128, "scale_block = 128, expected 0"),
        ("kind", Kind.BYE, r"kind = 7, expected one of \[1\]"),
        ("status", 9, "status = 9, unknown"),
        ("slot", 2, "slot = 2, found in slot 1"),
        ("n_tokens", 9, "n_tokens = 9, at most 8"),
        ("top_k", 1, r"top_k = 1, expected \[0, 3\]"),
        ("ids_offset", 0, "sections = "),
        ("ids_bytes", 2**32 - 1, "sections = "),
        ("weights_offset", 2**32 - 1, "sections = "),
        ("scales_bytes", 4, "sections = "),
        ("hidden_bytes", 0, "sections = "),
        ("payload_bytes", 1, "sections = "),
    ],
)
def test_what_does_not_fit_is_refused_with_field_and_value(field, value, text):
    check = HeaderCheck(LAYOUT, (Kind.DISPATCH,), epoch=9)
    with pytest.raises(ProtocolError, match=f"message header: {text}"):
        check(good()._replace(**{field: value}), 1)
