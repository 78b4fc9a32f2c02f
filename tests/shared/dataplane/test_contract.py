"""The contract of a channel, the same for every transport."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path

import pytest
import torch

from shared.dataplane.channel import ReplyChannel, RequestChannel
from shared.dataplane.errors import (
    Backpressure,
    ChannelTimeout,
    PeerLost,
)
from shared.dataplane.header import Kind, Status, pack_into, unpack
from shared.dataplane.layout import Layout

SMALL = Layout(hidden=16, top_k=3, max_tokens=8, slots=3)


def post(channel: RequestChannel, n_tokens: int = 2, *, step: int = 1, value: float = 1.0) -> None:
    slot = channel.acquire(n_tokens, 0.0)
    slot.hidden_TH.fill_(value)
    channel.post(slot, step=step, layer=0, micro_batch=0, routed=False)


def echo(channel: ReplyChannel) -> None:
    request = channel.recv(1.0)
    request.answer_TH.copy_(request.hidden_TH)
    channel.reply(request)


def rewrite(end: RequestChannel | ReplyChannel, index: int, /, **fields: int) -> None:
    """Change fields of a header that is already in the slot."""
    memory = end.link.send_slots()
    offset = index * (
        end.layout.dispatch.slot_bytes
        if isinstance(end, RequestChannel)
        else end.layout.combine.slot_bytes
    )
    pack_into(memory, offset, *unpack(memory, offset)._replace(**fields))


@pytest.mark.parametrize("dispatch", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("combine", [torch.float32, torch.bfloat16])
def test_every_size_and_type_arrives_bit_for_bit(connect, dispatch, combine):
    layout = Layout(
        hidden=24, top_k=2, max_tokens=9, dispatch_dtype=dispatch, combine_dtype=combine
    )
    attention, ffn = connect(layout)
    generator = torch.Generator().manual_seed(0)
    for n_tokens in [0, 1, 2, 9, 0, 8, 9]:
        slot = attention.acquire(n_tokens, 1.0)
        hidden_TH = torch.randn(n_tokens, 24, generator=generator).to(dispatch)
        ids_TK = torch.randint(0, 9, (n_tokens, 2), generator=generator, dtype=torch.int32)
        weights_TK = torch.rand(n_tokens, 2, generator=generator)
        slot.hidden_TH.copy_(hidden_TH)
        slot.expert_ids_TK.copy_(ids_TK)
        slot.weights_TK.copy_(weights_TK)
        attention.post(slot, step=2**40, layer=60, micro_batch=2, routed=True, deadline_us=250)

        request = ffn.recv(1.0)
        header = request.header
        assert (header.step, header.layer, header.micro_batch) == (2**40, 60, 2)
        assert (header.n_tokens, header.deadline_us) == (n_tokens, 250)
        assert torch.equal(request.hidden_TH, hidden_TH)
        assert torch.equal(request.expert_ids_TK, ids_TK)
        assert torch.equal(request.weights_TK, weights_TK)
        answer_TH = (hidden_TH.float() + 1).to(combine)
        request.answer_TH.copy_(answer_TH)
        ffn.reply(request)

        reply = attention.recv(1.0)
        assert torch.equal(reply.hidden_TH, answer_TH)
        assert (reply.header.step, reply.header.layer, reply.header.micro_batch) == (2**40, 60, 2)
        attention.release(reply)


def test_a_dense_layer_carries_no_routing(connect):
    attention, ffn = connect(SMALL)
    post(attention)
    request = ffn.recv(1.0)
    assert request.expert_ids_TK is None
    assert request.weights_TK is None


@pytest.mark.parametrize("total", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_messages_keep_their_order_and_wrap_around(connect, total):
    attention, ffn = connect(SMALL)
    sent = 0
    for expected in range(total):
        # Keep as many in flight as there are slots, so that the rings are full at every wrap.
        while sent < total and attention.credits:
            post(attention, sent % 9, step=sent, value=sent % 251)
            sent += 1
        echo(ffn)
        reply = attention.recv(1.0)
        assert reply.header.step == expected
        assert reply.header.n_tokens == expected % 9
        assert bool((reply.hidden_TH == expected % 251).all())
        attention.release(reply)
    assert (attention.stats().posted, attention.stats().received) == (total, total)
    assert attention.stats().duplicates == ffn.stats().duplicates == 0


def test_answers_may_come_in_another_order_than_questions(connect):
    attention, ffn = connect(SMALL)
    for step in (1, 2, 3):
        post(attention, step=step)
    requests = [ffn.recv(1.0) for _ in range(3)]
    for request in reversed(requests):
        ffn.reply(request)
    assert [attention.recv(1.0).header.step for _ in range(3)] == [3, 2, 1]


def test_a_slow_consumer_gives_backpressure_at_the_deadline(connect, lateness):
    attention, ffn = connect(SMALL)
    for _ in range(SMALL.slots):
        post(attention)
    assert lateness(lambda: attention.acquire(1, 0.1), Backpressure, 0.1) < 0.05
    with pytest.raises(Backpressure, match="all 3 slots are in flight"):
        attention.acquire(1, 0.0)
    # The answer alone is no credit yet: its memory is still being read.
    echo(ffn)
    reply = attention.recv(1.0)
    with pytest.raises(Backpressure):
        attention.acquire(1, 0.0)
    threading.Timer(0.05, attention.release, [reply]).start()
    assert attention.acquire(1, 5.0).index == reply.slot.index


def test_the_largest_messages_pass_both_ways_though_nobody_reads_meanwhile(connect):
    """More than any kernel buffer holds: neither end may wait for the other's reading."""
    layout = Layout(hidden=1024, top_k=0, max_tokens=1024, slots=4)
    attention, ffn = connect(layout)
    slots = [attention.acquire(1024, 0.0) for _ in range(4)]
    for step, slot in enumerate(slots):
        slot.hidden_TH.fill_(step)
        attention.post(slot, step=step, layer=0, micro_batch=0, routed=False)
    with pytest.raises(Backpressure):
        attention.acquire(1, 0.0)

    def answer() -> None:
        requests = [ffn.recv(10.0) for _ in range(4)]
        for request in requests:
            torch.add(request.hidden_TH, 1, out=request.answer_TH)
            ffn.reply(request)
        with pytest.raises((ChannelTimeout, PeerLost)):
            ffn.recv(10.0)

    thread = threading.Thread(target=answer)
    thread.start()
    for step in range(4):
        reply = attention.recv(10.0)
        assert reply.hidden_TH.shape == (1024, 1024)
        assert bool((reply.hidden_TH == step + 1).all())
        attention.release(reply)
    attention.close()
    thread.join()


def test_a_slow_consumer_costs_no_memory(connect):
    layout = Layout(hidden=1024, top_k=0, max_tokens=256, slots=2)
    attention, ffn = connect(layout)

    def round_trip() -> None:
        for _ in range(layout.slots):
            post(attention, 256)
        with pytest.raises(Backpressure):
            attention.acquire(1, 0.001)

        def answer() -> None:
            for _ in range(layout.slots):
                request = ffn.recv(5.0)
                request.answer_TH.copy_(request.hidden_TH)
                ffn.reply(request)
            ffn.try_recv()

        thread = threading.Thread(target=answer)
        thread.start()
        replies = [attention.recv(5.0) for _ in range(layout.slots)]
        thread.join()
        for reply in replies:
            attention.release(reply)

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for _ in range(5):
        round_trip()
    before = resident_bytes()
    for _ in range(50):
        round_trip()
    assert resident_bytes() - before < layout.channel_bytes


def test_an_abandoned_slot_is_free_again(connect):
    attention, _ = connect(SMALL)
    for _ in range(10):
        attention.abandon(attention.acquire(1, 0.0))
    assert attention.credits == SMALL.slots


def test_too_many_tokens_are_refused_before_anything_is_sent(connect):
    attention, _ = connect(SMALL)
    with pytest.raises(ValueError, match="n_tokens = 9: this channel carries 0 to 8"):
        attention.acquire(9, 0.0)
    assert attention.credits == SMALL.slots


def test_silence_ends_at_the_deadline(connect, lateness):
    for channel in connect(SMALL):
        assert lateness(partial(channel.recv, 0.06), ChannelTimeout, 0.06) < 0.05
        with pytest.raises(ChannelTimeout, match="no message within 0 ms"):
            channel.recv(0.0)


def test_a_failed_computation_is_told_apart_from_an_answer(connect):
    attention, ffn = connect(SMALL)
    post(attention, 4)
    ffn.reply(ffn.recv(1.0), Status.COMPUTE_FAILED)
    reply = attention.recv(1.0)
    assert reply.header.kind == Kind.ERROR
    assert reply.header.status == Status.COMPUTE_FAILED
    assert reply.hidden_TH.shape == (0, 16)


def test_a_message_that_arrives_again_is_dropped_and_counted(connect):
    attention, ffn = connect(SMALL)
    post(attention, step=1)
    echo(ffn)
    attention.link.publish(0)
    post(attention, step=2)
    assert ffn.recv(1.0).header.step == 2
    assert ffn.stats().duplicates == 1
    ffn.link.publish(0)
    assert attention.recv(1.0).header.step == 1
    assert attention.try_recv() is None
    assert attention.stats().duplicates == 1
