from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shared.dataplane.doorbell import Doorbell
from shared.dataplane.errors import (
    Backpressure,
    ChannelClosed,
    ChannelTimeout,
    PeerFailed,
    PeerLost,
)
from shared.dataplane.ffn_server import FfnBatch, FfnServer
from shared.dataplane.layout import Layout
from shared.dataplane.remote_ffn import RemoteFfn
from shared.errors import InvalidArgument
from shared.ffn.backend import Routing

H, K, E = 16, 3, 6
LAYOUT = Layout(hidden=H, top_k=K, max_tokens=8, slots=4)
ROUTING = Routing(torch.zeros(2, K, dtype=torch.int32), torch.ones(2, K))


def part(weights_EHH: Tensor, hidden_TH: Tensor, routing: Routing, experts: range) -> Tensor:
    """What the shard that owns `experts` contributes."""
    out_TH = torch.zeros_like(hidden_TH)
    for token in range(hidden_TH.shape[0]):
        for k in range(K):
            expert = int(routing.expert_ids_TK[token, k])
            if expert in experts:
                weight = routing.weights_TK[token, k]
                out_TH[token] += weight * (hidden_TH[token] @ weights_EHH[expert])
    return out_TH


class Deployment:
    """M attention ends and N shards; each shard computes in a thread of its own."""

    def __init__(self, connect, n_attention: int, n_shards: int, deadline_s: float = 5.0) -> None:
        self.servers = [FfnServer(rank) for rank in range(n_shards)]
        self.backends = []
        self._threads: list[threading.Thread] = []
        for _ in range(n_attention):
            bell = Doorbell()
            channels = []
            for server in self.servers:
                attention, ffn = connect(
                    LAYOUT,
                    attention_bell=bell,
                    ffn_bell=server.bell,
                    shard_rank=server.shard_rank,
                )
                channels.append(attention)
                server.add(ffn)
            self.backends.append(RemoteFfn(channels, bell, deadline_s))

    def compute(self, work: Callable[[FfnServer, FfnBatch], None]) -> None:
        def run(server: FfnServer) -> None:
            try:
                while True:
                    batch = server.next_batch(5.0)
                    if batch is not None:
                        work(server, batch)
                        server.respond(batch)
            except ChannelClosed:
                return

        for server in self.servers:
            self._threads.append(threading.Thread(target=run, args=(server,)))
            self._threads[-1].start()

    def close(self) -> None:
        for backend in self.backends:
            backend.close()
        for server in self.servers:
            server.close()
        for thread in self._threads:
            thread.join(5.0)
            assert not thread.is_alive()


@pytest.fixture
def deploy(connect):
    made: list[Deployment] = []

    def make(n_attention: int = 1, n_shards: int = 1, deadline_s: float = 5.0) -> Deployment:
        made.append(Deployment(connect, n_attention, n_shards, deadline_s))
        return made[-1]

    yield make
    for deployment in made:
        deployment.close()


def double(server: FfnServer, batch: FfnBatch) -> None:
    for item in batch.items:
        torch.mul(item.request.hidden_TH, 2, out=item.request.answer_TH)


def step_by_hand(server: FfnServer) -> None:
    batch = server.next_batch(1.0)
    assert batch is not None
    double(server, batch)
    server.respond(batch)


def test_two_attentions_and_three_shards_equal_the_single_process_sum(deploy):
    deployment = deploy(n_attention=2, n_shards=3)
    generator = torch.Generator().manual_seed(0)
    weights_EHH = torch.randn(E, H, H, generator=generator)

    def work(server: FfnServer, batch: FfnBatch) -> None:
        owned = range(2 * server.shard_rank, 2 * server.shard_rank + 2)
        for item in batch.items:
            request = item.request
            routing = Routing(request.expert_ids_TK, request.weights_TK)
            request.answer_TH.copy_(part(weights_EHH, request.hidden_TH, routing, owned))

    deployment.compute(work)
    errors: list[BaseException] = []

    def attention(backend: RemoteFfn, sizes: list[int], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        try:
            for step, n_tokens in enumerate(sizes):
                asked = []
                for micro_batch in range(3):
                    hidden_TH = torch.randn(n_tokens, H, generator=generator)
                    ids_TK = torch.randint(0, E, (n_tokens, K), generator=generator)
                    weights_TK = torch.rand(n_tokens, K, generator=generator)
                    routing = Routing(ids_TK.to(torch.int32), weights_TK)
                    ticket = backend.dispatch(step, step % 4, micro_batch, hidden_TH, routing)
                    asked.append((ticket, hidden_TH, routing))
                for ticket, hidden_TH, routing in asked:
                    parts = [
                        part(weights_EHH, hidden_TH, routing, range(2 * rank, 2 * rank + 2))
                        for rank in range(3)
                    ]
                    # Bit for bit: rank order, whichever shard was the first.
                    assert torch.equal(backend.collect(ticket), parts[0] + parts[1] + parts[2])
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=attention, args=(deployment.backends[0], [1, 0, 5, 8, 2, 3], 1)),
        threading.Thread(target=attention, args=(deployment.backends[1], [7, 2, 0, 0, 8, 1], 2)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert errors == []
    assert sum(server.stats().messages for server in deployment.servers) == 2 * 6 * 3 * 3


def test_one_shards_answer_is_not_copied(deploy):
    deployment = deploy()
    backend = deployment.backends[0]
    for step in range(10):
        ticket = backend.dispatch(step, 0, 0, torch.full((2, H), float(step)), ROUTING)
        step_by_hand(deployment.servers[0])
        answer_TH = backend.collect(ticket)
        assert bool((answer_TH == 2 * step).all())
        slots = backend._channels[0]._answers
        assert answer_TH.data_ptr() in [slot.hidden_TH.data_ptr() for slot in slots]


def test_a_late_answer_is_not_taken_for_the_next_steps(deploy):
    deployment = deploy(n_shards=2, deadline_s=0.1)
    backend = deployment.backends[0]
    ticket = backend.dispatch(1, 0, 0, torch.full((2, H), 1.0), ROUTING)
    step_by_hand(deployment.servers[0])
    with pytest.raises(ChannelTimeout, match=r"shard 1 \(shard 1\) of 2 did not answer step 1"):
        backend.collect(ticket)
    ticket = backend.dispatch(2, 0, 0, torch.full((2, H), 5.0), ROUTING)
    step_by_hand(deployment.servers[0])
    step_by_hand(deployment.servers[1])  # both messages: the late answer, then the right one
    assert bool((backend.collect(ticket) == 20.0).all())
    assert backend.describe()["late_replies"] == "1"
    # No slot was lost on the way.
    backend._give_back(0)
    assert [channel.credits for channel in backend._channels] == [LAYOUT.slots] * 2


def test_an_uncollected_micro_batch_of_a_failed_step_does_not_block_the_next(deploy):
    deployment = deploy()
    backend = deployment.backends[0]
    backend.dispatch(1, 0, 0, torch.full((2, H), 1.0), ROUTING)
    ticket = backend.dispatch(2, 0, 0, torch.full((2, H), 3.0), ROUTING)
    step_by_hand(deployment.servers[0])
    assert bool((backend.collect(ticket) == 6.0).all())


def test_a_stuck_shard_gives_backpressure_and_recovers(deploy):
    deployment = deploy(deadline_s=0.05)
    backend = deployment.backends[0]
    for step in range(LAYOUT.slots):
        ticket = backend.dispatch(step, 0, 0, torch.zeros(2, H), ROUTING)
        with pytest.raises(ChannelTimeout):
            backend.collect(ticket)
    with pytest.raises(Backpressure, match="all 4 slots are in flight"):
        backend.dispatch(9, 0, 0, torch.zeros(2, H), ROUTING)
    step_by_hand(deployment.servers[0])
    ticket = backend.dispatch(10, 0, 0, torch.ones(2, H), ROUTING)
    step_by_hand(deployment.servers[0])
    assert bool((backend.collect(ticket) == 2.0).all())


def test_a_lost_shard_fails_the_step_and_is_named(deploy):
    deployment = deploy(n_shards=3)
    backend = deployment.backends[0]
    ticket = backend.dispatch(1, 0, 0, torch.ones(2, H), ROUTING)
    step_by_hand(deployment.servers[0])
    step_by_hand(deployment.servers[2])
    threading.Timer(0.05, deployment.servers[1].close).start()
    with pytest.raises(PeerLost, match=r"FFN shard 1 of 3: shard 1 \(\w+\) was lost") as lost:
        backend.collect(ticket)
    assert lost.value.metadata["shard"] == "1"
    with pytest.raises(PeerLost, match="FFN shard 1 of 3"):
        backend.dispatch(2, 0, 0, torch.ones(2, H), ROUTING)


def test_a_part_that_was_not_computed_is_an_error_and_no_zero(deploy):
    deployment = deploy(n_shards=2)
    backend = deployment.backends[0]
    ticket = backend.dispatch(1, 3, 0, torch.ones(2, H), ROUTING)
    step_by_hand(deployment.servers[0])
    batch = deployment.servers[1].next_batch(1.0)
    assert batch is not None
    deployment.servers[1].fail(batch)
    with pytest.raises(PeerFailed, match=r"shard 1 of 2 .*layer 3: COMPUTE_FAILED"):
        backend.collect(ticket)
    ticket = backend.dispatch(2, 0, 0, torch.ones(2, H), None)
    for server in deployment.servers:
        step_by_hand(server)
    assert bool((backend.collect(ticket) == 4.0).all())


def test_too_many_tokens_are_refused(deploy):
    backend = deploy().backends[0]
    with pytest.raises(InvalidArgument, match="9 tokens: the data plane's slots hold 8"):
        backend.dispatch(1, 0, 0, torch.ones(9, H), None)


def test_close_wakes_a_thread_that_collects(deploy):
    backend = deploy().backends[0]
    ticket = backend.dispatch(1, 0, 0, torch.ones(2, H), None)
    threading.Timer(0.05, backend.close).start()
    with pytest.raises(ChannelClosed):
        backend.collect(ticket)
    with pytest.raises(ChannelClosed):
        backend.dispatch(2, 0, 0, torch.ones(2, H), None)


def test_the_server_info_tells_where_the_time_goes(deploy, transport):
    deployment = deploy(n_shards=2)
    deployment.compute(double)
    backend = deployment.backends[0]
    for step in range(20):
        backend.collect(backend.dispatch(step, 0, 0, torch.ones(2, H), ROUTING))
    facts = backend.describe()
    assert (facts["ffn"], facts["shards"]) == ("disaggregated", "2")
    assert facts["transport"] == transport
    for rank in range(2):
        round_trip, ffn, wire = (
            float(facts[f"shard_{rank}_{part}_us"]) for part in ("round_trip", "ffn", "wire")
        )
        assert 0 < ffn < round_trip
        assert round_trip == pytest.approx(ffn + wire, abs=0.2)
