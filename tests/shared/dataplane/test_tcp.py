"""What only sockets have: strangers at the door, bytes on the wire, hosts that die."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest

from shared.dataplane import tcp
from shared.dataplane.channel import ReplyChannel
from shared.dataplane.doorbell import Doorbell
from shared.dataplane.errors import ChannelTimeout, PeerLost, ProtocolError
from shared.dataplane.header import MAGIC, Header, Kind, pack_into
from shared.dataplane.layout import DTYPE_CODES, HEADER_BYTES, PROTOCOL_VERSION, Layout
from shared.errors import FailedPrecondition

LAYOUT = Layout(hidden=16, top_k=2, max_tokens=8, slots=2)
EPOCH = 7


@pytest.fixture
def bell():
    bell = Doorbell()
    yield bell
    bell.close()


def greet(endpoint: str, **change: object) -> socket.socket:
    """A hand-made attention end; returns once its greeting is sent."""
    address, token = endpoint.rsplit("/", 1)
    host, port = address.split(":")
    hello = {"token": token, "version": PROTOCOL_VERSION, "dims": LAYOUT.dims_hash, **change}
    connection = socket.create_connection((host, int(port)), 5.0)
    data = json.dumps(hello).encode()
    connection.sendall(struct.pack("<I", len(data)) + data)
    return connection


@pytest.fixture
def wire(bell):
    """The bare socket of an attention end, and the FFN's channel."""
    listener = tcp.StreamListener(LAYOUT, bell, "127.0.0.1", epoch=EPOCH, peer="attention 0")
    connection = greet(listener.endpoint)
    channel = ReplyChannel(listener.accept(5.0), LAYOUT, EPOCH)
    (size,) = struct.unpack("<I", connection.recv(4))
    assert json.loads(connection.recv(size)) == {"epoch": EPOCH}
    yield connection, channel
    connection.close()
    channel.close()


def message(n_tokens: int = 0, **change: int) -> bytes:
    at, payload = LAYOUT.dispatch, n_tokens * 64
    fields = {
        "magic": MAGIC, "version": PROTOCOL_VERSION, "kind": Kind.DISPATCH, "session_epoch": EPOCH,
        "seq": 1, "n_slots": 2, "n_tokens": n_tokens, "hidden": 16,
        "dtype": DTYPE_CODES[LAYOUT.dispatch_dtype], "ids_offset": at.expert_ids,
        "weights_offset": at.weights, "hidden_offset": at.hidden, "hidden_bytes": payload,
        "payload_bytes": payload, **change,
    }  # fmt: skip
    header = bytearray(HEADER_BYTES)
    pack_into(header, 0, *(fields.get(name, 0) for name in Header._fields))
    struct.pack_into("<I", header, 120, zlib.crc32(header))
    return bytes(header) + bytes(payload)


def test_only_the_used_bytes_travel_and_may_come_in_any_pieces(wire):
    connection, channel = wire
    data = message(n_tokens=3)
    assert len(data) == HEADER_BYTES + 3 * 64
    for index in range(len(data)):
        assert channel.try_recv() is None
        connection.sendall(data[index : index + 1])
    assert channel.recv(1.0).header.n_tokens == 3


def test_every_flipped_bit_of_a_header_is_noticed(bell):
    for bit in range(0, 8 * HEADER_BYTES, 37):
        listener = tcp.StreamListener(LAYOUT, bell, "127.0.0.1", epoch=EPOCH, peer="attention 0")
        with greet(listener.endpoint) as connection:
            channel = ReplyChannel(listener.accept(5.0), LAYOUT, EPOCH)
            data = bytearray(message(n_tokens=1))
            data[bit // 8] ^= 1 << bit % 8
            connection.sendall(data)
            with pytest.raises(ProtocolError, match=r"message header: checksum = 0x\w+ does not"):
                channel.recv(1.0)


def test_more_messages_than_slots_are_refused_not_buffered(wire):
    connection, channel = wire
    connection.sendall(b"".join(message(seq=seq, slot=seq % 2) for seq in (1, 2, 3)))
    assert channel.recv(1.0).header.seq == 1
    assert channel.recv(1.0).header.seq == 2
    with pytest.raises(ProtocolError, match="more messages in flight than the 2 slots"):
        channel.recv(1.0)


@pytest.mark.parametrize("n_bytes", [64, HEADER_BYTES, HEADER_BYTES + 100])
def test_a_connection_cut_anywhere_in_a_message_is_a_lost_peer(wire, n_bytes):
    connection, channel = wire
    connection.sendall(message(n_tokens=8)[:n_bytes])
    connection.close()
    with pytest.raises(PeerLost, match="its process ended"):
        channel.recv(1.0)


def test_a_goodbye_with_an_impossible_length_is_refused(wire):
    connection, channel = wire
    connection.sendall(message(kind=Kind.BYE, payload_bytes=501))
    with pytest.raises(ProtocolError, match="payload_bytes = 501"):
        channel.recv(1.0)


def test_strangers_are_hung_up_on_and_the_wait_goes_on(bell):
    listener = tcp.StreamListener(LAYOUT, bell, "127.0.0.1", epoch=EPOCH, peer="attention 0")
    wrong = greet(listener.endpoint, token="guess")
    noise = socket.create_connection(wrong.getpeername(), 5.0)
    noise.sendall(b"GET / HTTP/1.1\r\n\r\n")
    right = greet(listener.endpoint)
    link = listener.accept(5.0)
    assert wrong.recv(10) == b""
    link.close("done")
    for connection in (wrong, noise, right):
        connection.close()


def test_another_version_is_refused_in_words(bell):
    listener = tcp.StreamListener(LAYOUT, bell, "127.0.0.1", epoch=EPOCH, peer="attention 0")
    with greet(listener.endpoint, version=9) as connection:
        with pytest.raises(FailedPrecondition, match="protocol version 9: this FFN speaks 1"):
            listener.accept(5.0)
        assert b"protocol version 9" in connection.recv(1000)


def test_a_listener_that_does_not_greet_costs_no_more_than_the_deadline(bell, lateness):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}/token"

        def connect() -> None:
            tcp.connect(endpoint, LAYOUT, bell, transport="tcp", peer="shard 0", timeout_s=0.1)

        assert lateness(connect, ChannelTimeout, 0.1) < 0.05


def test_a_wildcard_address_is_replaced_by_the_name_that_is_known():
    assert tcp.reachable("0.0.0.0:81/token", "ffn") == "ffn:81/token"
    assert tcp.reachable("127.0.0.1:81/token", "ffn") == "127.0.0.1:81/token"


def test_an_idle_connection_stays_and_pings_do_not_pile_up(bell):
    other = Doorbell()
    listener = tcp.StreamListener(LAYOUT, other, "127.0.0.1", epoch=EPOCH, peer="attention 0")
    links = []
    thread = threading.Thread(target=lambda: links.append(listener.accept(5.0)))
    thread.start()
    endpoint = listener.endpoint
    link, _ = tcp.connect(endpoint, LAYOUT, bell, transport="tcp", peer="s", timeout_s=5.0)
    thread.join()
    assert not bell.wait(lambda: link.lost is not None, time.monotonic_ns() + 600_000_000)
    assert not links[0].ready()
    assert links[0].lost is None
    for end in (link, links[0]):
        end.close("done")
    other.close()


DEAD_HOST = Path(__file__).with_name("dead_host.py")


@pytest.mark.parametrize("state", ["idle", "posted"])
def test_a_dead_host_is_noticed_within_a_quarter_of_a_second(state):
    """In a network of its own, whose only interface is taken down.

    The best of a few tries, since a busy machine may run anything late.
    """
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, str(DEAD_HOST)]
    environment = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1", "PATH": os.defpath}
    elapsed = []
    while not elapsed or (min(elapsed) >= 0.25 and len(elapsed) < 3):
        result = subprocess.run(
            [*command, state],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=environment,
        )
        if "unshare failed" in result.stderr:
            pytest.skip("this machine does not allow user namespaces")
        assert result.returncode == 0, result.stderr
        seconds, text = result.stdout.split(" ", 1)
        assert "its host does not answer" in text
        elapsed.append(float(seconds))
    assert min(elapsed) < 0.25
