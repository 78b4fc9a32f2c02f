"""The contract of a channel when a message is wrong, an end closes or nobody is there."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path

import pytest
import torch

from shared.dataplane import transports
from shared.dataplane.channel import ReplyChannel, RequestChannel
from shared.dataplane.doorbell import Doorbell
from shared.dataplane.errors import (
    ChannelClosed,
    ChannelTimeout,
    PeerLost,
    ProtocolError,
)
from shared.dataplane.header import Kind, pack_into, unpack
from shared.dataplane.layout import Layout
from shared.errors import FailedPrecondition

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


BAD_FIELDS = {
    "magic": 1,
    "version": 9,
    "kind": Kind.COMBINE,
    "session_epoch": 6,
    "seq": 5,
    "slot": 3,
    "n_slots": 4,
    "n_tokens": 9,
    "hidden": 17,
    "top_k": 2,
    "dtype": 2,
    "scale_block": 128,
    "hidden_offset": 2**31,
    "hidden_bytes": 2**31,
    "weights_bytes": 4,
    "payload_bytes": 0,
}


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_a_corrupted_question_closes_the_channel(connect, field):
    attention, ffn = connect(SMALL)
    slot = attention.acquire(2, 0.0)
    publish, attention.link.publish = attention.link.publish, lambda slot: None
    attention.post(slot, step=1, layer=0, micro_batch=0, routed=False)
    rewrite(attention, slot.index, **{field: BAD_FIELDS[field]})
    publish(slot.index)
    with pytest.raises(ProtocolError, match=r"attention 0 .*message header: "):
        ffn.recv(1.0)
    with pytest.raises(ChannelClosed):
        ffn.recv(1.0)
    with pytest.raises(PeerLost, match=r"hung up .protocol error: message header"):
        attention.recv(1.0)


@pytest.mark.parametrize("change", [{"n_tokens": 1}, {"slot": 2}, {"kind": Kind.DISPATCH}])
def test_a_corrupted_answer_closes_the_channel(connect, change):
    attention, ffn = connect(SMALL)
    post(attention, 2)
    publish, ffn.link.publish = ffn.link.publish, lambda slot: None
    ffn.reply(ffn.recv(1.0))
    if "n_tokens" in change:  # consistent in itself, but not what was asked
        change |= {"hidden_bytes": 64, "payload_bytes": 64}
    rewrite(ffn, 0, **change)
    publish(0)
    with pytest.raises(ProtocolError):
        attention.recv(1.0)
    with pytest.raises(ChannelClosed):
        attention.acquire(1, 0.0)


def test_random_bytes_for_a_header_never_pass(connect):
    generator = torch.Generator().manual_seed(1)
    layout = Layout(hidden=16, top_k=3, max_tokens=8, slots=1)
    for _ in range(20):
        attention, ffn = connect(layout)
        noise = torch.randint(0, 256, (128,), generator=generator, dtype=torch.uint8)
        attention.link.send_slots()[:128] = noise.numpy().tobytes()
        attention.link.publish(0)
        with pytest.raises(ProtocolError):
            ffn.recv(1.0)
        attention.close()


def test_an_answer_that_nobody_asked_for_closes_the_channel(connect):
    attention, ffn = connect(SMALL)
    post(attention)
    request = ffn.recv(1.0)
    ffn.reply(request)
    rewrite(ffn, 0, seq=2)
    ffn.link.publish(0)
    # In memory the first delivery already sees seq 2 where 1 belongs.
    with pytest.raises(ProtocolError, match=r"seq = 2 after 0|slot 0, where nothing was asked"):
        for _ in range(2):
            attention.recv(1.0)


def test_closing_wakes_a_waiting_receiver(connect):
    for end in (0, 1):
        channel = connect(SMALL)[end]
        threading.Timer(0.05, channel.close).start()
        began = time.monotonic()
        with pytest.raises(ChannelClosed):
            channel.recv(10.0)
        assert time.monotonic() - began < 0.5


def test_closing_wakes_a_sender_that_waits_for_credit(connect):
    attention, _ = connect(SMALL)
    for _ in range(SMALL.slots):
        post(attention)
    threading.Timer(0.05, attention.close).start()
    with pytest.raises(ChannelClosed):
        attention.acquire(1, 10.0)


def test_the_peer_learns_that_and_why_this_end_closed(connect):
    attention, ffn = connect(SMALL)
    post(attention, step=5)
    attention.close("draining")
    # What was posted before is still delivered.
    request = ffn.recv(1.0)
    assert request.header.step == 5
    with pytest.raises(PeerLost, match=r"attention 0 .* was lost: it hung up \(draining\)"):
        ffn.recv(1.0)
    with pytest.raises(PeerLost):
        ffn.reply(request)


def test_every_call_after_close_raises(connect):
    attention, ffn = connect(SMALL)
    slot = attention.acquire(1, 0.0)
    post(attention)
    request = ffn.recv(1.0)
    attention.close()
    ffn.close()
    attention.close()
    with pytest.raises(ChannelClosed):
        attention.post(slot, step=1, layer=0, micro_batch=0, routed=False)
    with pytest.raises(ChannelClosed):
        attention.acquire(1, 0.0)
    with pytest.raises(ChannelClosed):
        ffn.reply(request)


def test_other_dimensions_are_refused_in_words(transport, tmp_path):
    bell, ffn_bell = Doorbell(), Doorbell()
    other = Layout(hidden=32, top_k=3, max_tokens=8, slots=3)
    listener = transports.listen(transport, SMALL, ffn_bell, tmp_path, epoch=1, peer="attention 0")
    errors: list[Exception] = []

    def accept() -> None:
        try:
            listener.accept(0.5)
        except (FailedPrecondition, ChannelTimeout) as error:
            errors.append(error)

    thread = threading.Thread(target=accept)
    thread.start()
    with pytest.raises(FailedPrecondition, match=r"hidden=32 .*this FFN has hidden=16"):
        transports.connect(transport, listener.endpoint, other, bell, peer="s", timeout_s=1.0)
    thread.join()
    assert len(errors) == 1
    bell.close()
    ffn_bell.close()


def test_nobody_there_is_told_at_once(transport, tmp_path):
    bell = Doorbell()
    with pytest.raises(PeerLost, match="shard 0"):
        transports.connect(
            transport, str(tmp_path / "none.sock"), SMALL, bell, peer="shard 0", timeout_s=5.0
        )
    bell.close()


def test_a_listener_gives_up_and_leaves_no_name(transport, tmp_path):
    bell = Doorbell()
    listener = transports.listen(transport, SMALL, bell, tmp_path, epoch=1, peer="attention 0")
    with pytest.raises(ChannelTimeout, match=r"attention 0 .*did not connect within"):
        listener.accept(0.05)
    assert list(tmp_path.iterdir()) == []
    bell.close()


def leftovers() -> tuple[int, int, int]:
    gc.collect()
    fds = len(os.listdir("/proc/self/fd"))
    mappings = Path("/proc/self/maps").read_text().count("step3-channel")
    return fds, mappings, threading.active_count()


def test_nothing_is_left_after_close(connect, tmp_path):
    def once() -> None:
        attention_bell, ffn_bell = Doorbell(), Doorbell()
        attention, ffn = connect(SMALL, attention_bell=attention_bell, ffn_bell=ffn_bell)
        post(attention)
        echo(ffn)
        attention.recv(1.0)
        attention.close()
        ffn.close()
        attention_bell.close()
        ffn_bell.close()

    once()
    connect.forget()
    before = leftovers()
    for _ in range(5):
        once()
        connect.forget()
    assert leftovers() == before
    assert before[1] == 0
    assert list(tmp_path.iterdir()) == []


def test_a_view_outlives_the_channel(connect):
    attention, ffn = connect(SMALL)
    post(attention, value=3.0)
    echo(ffn)
    hidden_TH = attention.recv(1.0).hidden_TH
    attention.close()
    ffn.close()
    del attention, ffn
    gc.collect()
    assert bool((hidden_TH == 3.0).all())
