"""What one process sees when the other is killed or stopped."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

from shared.dataplane import transports
from shared.dataplane.channel import ReplyChannel, RequestChannel
from shared.dataplane.doorbell import Doorbell
from shared.dataplane.errors import ChannelTimeout, PeerLost
from shared.dataplane.ffn_server import FfnServer
from shared.dataplane.layout import Layout

EPOCH = 7
DIMS = {"hidden": 16, "top_k": 2, "max_tokens": 8, "slots": 4}
LAYOUT = Layout(**DIMS)
# From the kill to the exception.
BOUND_S = 0.25


@pytest.fixture(params=[name for name in transports.TRANSPORTS if name != "inproc"])
def transport(request):
    return request.param


@pytest.fixture
def bell():
    bell = Doorbell()
    yield bell
    bell.close()


@pytest.fixture
def to_shard(transport, start_peer, bell, tmp_path):
    """The attention end of a channel to another process."""
    channels = []

    def connect(mode: str, layout: Layout = LAYOUT):
        dims = {name: getattr(layout, name) for name in DIMS}
        peer = start_peer(
            "shard", transport=transport, directory=str(tmp_path), layout=dims, mode=mode
        )
        link, epoch = transports.connect(
            transport, peer.line(), layout, bell, peer="shard 0", timeout_s=10.0
        )
        channels.append(RequestChannel(link, layout, epoch))
        assert peer.line() == "connected"
        return peer, channels[-1]

    yield connect
    for channel in channels:
        channel.close()


def post(channel: RequestChannel) -> None:
    slot = channel.acquire(2, 1.0)
    slot.hidden_TH.fill_(1)
    channel.post(slot, step=1, layer=0, micro_batch=0, routed=False)


def test_another_process_answers(to_shard):
    _, channel = to_shard("echo")
    for _ in range(100):
        post(channel)
        reply = channel.recv(5.0)
        assert bool((reply.hidden_TH == 2).all())
        channel.release(reply)


def test_a_shard_killed_while_idle(to_shard):
    peer, channel = to_shard("silent")
    peer.signal(signal.SIGKILL)
    killed = time.monotonic()
    with pytest.raises(PeerLost, match=r"shard 0 \(\w+\) was lost: its process ended"):
        while True:
            channel.abandon(channel.acquire(1, 0.0))
    assert time.monotonic() - killed < BOUND_S


def test_a_shard_killed_while_a_slot_is_being_written(to_shard):
    peer, channel = to_shard("silent")
    slot = channel.acquire(2, 1.0)
    peer.signal(signal.SIGKILL)
    killed = time.monotonic()
    slot.hidden_TH.fill_(1)
    channel.post(slot, step=1, layer=0, micro_batch=0, routed=False)
    with pytest.raises(PeerLost):
        channel.recv(10.0)
    assert time.monotonic() - killed < BOUND_S


def test_a_shard_killed_with_a_message_in_its_hands(to_shard):
    peer, channel = to_shard("silent")
    post(channel)
    assert peer.line() == "received"
    peer.signal(signal.SIGKILL)
    killed = time.monotonic()
    with pytest.raises(PeerLost):
        channel.recv(10.0)
    assert time.monotonic() - killed < BOUND_S


def test_a_shard_killed_while_attention_sleeps(to_shard):
    peer, channel = to_shard("silent")
    post(channel)
    killed: list[float] = []

    def kill() -> None:
        killed.append(time.monotonic())
        peer.signal(signal.SIGKILL)

    threading.Timer(0.1, kill).start()
    with pytest.raises(PeerLost):
        channel.recv(10.0)
    assert time.monotonic() - killed[0] < BOUND_S


def test_a_stopped_shard_costs_no_more_than_the_deadline(to_shard, lateness):
    peer, channel = to_shard("echo")
    peer.signal(signal.SIGSTOP)
    post(channel)
    assert lateness(lambda: channel.recv(0.1), ChannelTimeout, 0.1) < 0.05
    with pytest.raises(ChannelTimeout, match=r"shard 0 \(\w+\): no message within 0 ms"):
        channel.recv(0.0)
    peer.signal(signal.SIGCONT)
    assert bool((channel.recv(5.0).hidden_TH == 2).all())


@pytest.fixture
def server():
    server = FfnServer()
    yield server
    server.close()


def add_attention(transport: str, server: FfnServer, start_peer, directory: Path, mode: str):
    listener = transports.listen(
        transport, LAYOUT, server.bell, directory, epoch=EPOCH, peer="attention 1"
    )
    peer = start_peer(
        "attention", transport=transport, endpoint=listener.endpoint, layout=DIMS, mode=mode
    )
    server.add(ReplyChannel(listener.accept(30.0), LAYOUT, EPOCH))
    assert peer.line() == "connected"
    return peer


def test_a_killed_attention_is_dropped_with_its_messages(transport, server, start_peer, tmp_path):
    peer = add_attention(transport, server, start_peer, tmp_path, "posted")
    batch = server.next_batch(5.0)
    assert batch is not None and batch.n_tokens == 2
    peer.signal(signal.SIGKILL)
    killed = time.monotonic()
    while server.stats().peers:
        assert server.next_batch(0.05) is None
    assert time.monotonic() - killed < BOUND_S
    # Its answer has nowhere to go; that is counted and disturbs nothing.
    server.respond(batch)
    assert (server.stats().dropped, server.stats().peers_lost) == (1, 1)
    assert server.losses() == [f"attention 1 ({transport}) was lost: its process ended"]


# Of 16 MiB a message: no socket buffers two of them.
LARGE = Layout(hidden=4096, top_k=0, max_tokens=1024, slots=4)


def post_large(channel: RequestChannel) -> None:
    for _ in range(2):
        slot = channel.acquire(1024, 1.0)
        slot.hidden_TH.fill_(1)
        channel.post(slot, step=1, layer=0, micro_batch=0, routed=False)


def test_a_shard_killed_in_the_middle_of_a_message(to_shard):
    peer, channel = to_shard("deaf", LARGE)
    post_large(channel)
    peer.signal(signal.SIGKILL)
    killed = time.monotonic()
    with pytest.raises(PeerLost, match="its process ended"):
        channel.recv(10.0)
    assert time.monotonic() - killed < BOUND_S


def test_a_shard_stopped_in_the_middle_of_a_message_is_waited_for(to_shard):
    """Longer than any timer that tells of dead hosts: it is alive, and goes on where it was."""
    peer, channel = to_shard("echo", LARGE)
    peer.signal(signal.SIGSTOP)
    post_large(channel)
    with pytest.raises(ChannelTimeout):
        channel.recv(0.6)
    peer.signal(signal.SIGCONT)
    for _ in range(2):
        assert bool((channel.recv(10.0).hidden_TH == 2).all())


def test_shared_memory_is_gone_with_its_processes(to_shard, tmp_path):
    peer, channel = to_shard("echo")
    peer.signal(signal.SIGKILL)
    with pytest.raises(PeerLost):
        channel.recv(5.0)
    assert list(tmp_path.iterdir()) == []
    assert not [name for name in Path("/dev/shm").iterdir() if "step3" in name.name]
