from __future__ import annotations

import threading
import time

import pytest

from shared.dataplane.channel import RequestChannel
from shared.dataplane.doorbell import CHECK_NS
from shared.dataplane.errors import ChannelClosed, PeerLost
from shared.dataplane.ffn_server import FfnServer
from shared.dataplane.layout import Layout

LAYOUT = Layout(hidden=16, top_k=2, max_tokens=8, slots=4)


@pytest.fixture
def server():
    server = FfnServer()
    yield server
    server.close()


@pytest.fixture
def join(connect, server):
    def new_peer() -> RequestChannel:
        attention, ffn = connect(LAYOUT, ffn_bell=server.bell)
        server.add(ffn)
        return attention

    return new_peer


def post(channel: RequestChannel, layer: int, n_tokens: int = 2, micro_batch: int = 0) -> None:
    slot = channel.acquire(n_tokens, 0.0)
    slot.hidden_TH.fill_(layer)
    channel.post(slot, step=1, layer=layer, micro_batch=micro_batch, routed=False)


def test_a_batch_is_what_is_ready_for_one_layer(server, join):
    first, second = join(), join()
    post(first, layer=4, n_tokens=1)
    post(first, layer=5)
    post(second, layer=4, n_tokens=3)
    batch = server.next_batch(1.0)
    assert (batch.layer, batch.n_tokens, len(batch.items)) == (4, 4, 2)
    server.respond(batch)
    assert [channel.recv(1.0).header.n_tokens for channel in (first, second)] == [1, 3]
    batch = server.next_batch(1.0)
    assert (batch.layer, batch.n_tokens) == (5, 2)


def test_an_idle_peer_is_not_waited_for(server, join):
    busy, _idle = join(), join()
    post(busy, layer=0)
    began = time.monotonic()
    assert len(server.next_batch(10.0).items) == 1
    assert time.monotonic() - began < 0.5


def test_an_empty_message_is_a_message(server, join):
    peer = join()
    post(peer, layer=0, n_tokens=0)
    batch = server.next_batch(1.0)
    assert (len(batch.items), batch.n_tokens) == (1, 0)
    server.respond(batch)
    assert peer.recv(1.0).header.n_tokens == 0


def test_nothing_to_do_is_none_at_the_deadline(server, join):
    join()
    began = time.monotonic()
    assert server.next_batch(0.05) is None
    assert 0.05 <= time.monotonic() - began < 1.0


def test_one_peers_end_leaves_the_others_served(server, join):
    leaving, staying = join(), join()
    post(leaving, layer=0)
    post(leaving, layer=1)
    post(staying, layer=0)
    batch = server.next_batch(1.0)
    leaving.close("done")
    time.sleep(2 * CHECK_NS / 1e9)
    assert server.next_batch(0.0) is None
    server.respond(batch)
    assert staying.recv(1.0).header.layer == 0
    post(staying, layer=2)
    assert server.next_batch(1.0).layer == 2
    stats = server.stats()
    assert (stats.peers, stats.peers_lost) == (1, 1)
    assert stats.dropped == 2
    assert "hung up (done)" in server.losses()[0]


def test_a_peer_that_breaks_the_contract_is_thrown_out_alone(server, join):
    broken, staying = join(), join()
    broken.link.send_slots()[:128] = bytes(128)
    broken.link.publish(0)
    post(staying, layer=3)
    assert server.next_batch(1.0).layer == 3
    assert "magic = 0" in server.losses()[0]
    with pytest.raises(PeerLost, match="protocol error"):
        broken.recv(1.0)


def test_a_peer_that_joins_while_the_server_waits_is_served(server, join):
    threading.Timer(0.05, lambda: post(join(), layer=7)).start()
    assert server.next_batch(5.0).layer == 7


def test_close_wakes_the_thread_that_waits_and_tells_the_peers(server, join):
    peer = join()
    threading.Timer(0.05, server.close).start()
    with pytest.raises(ChannelClosed):
        server.next_batch(10.0)
    with pytest.raises(PeerLost, match="the FFN is shutting down"):
        peer.recv(1.0)
