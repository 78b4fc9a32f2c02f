"""Ends of the data plane's own transports."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks.ends.plan import SLOTS, TIMEOUT_S, Client, End, Pipe, Plan, Server
from shared.dataplane import transports
from shared.dataplane.channel import ReplyChannel, RequestChannel
from shared.dataplane.doorbell import Doorbell
from shared.dataplane.errors import PeerLost
from shared.dataplane.header import Status
from shared.dataplane.layout import Layout

# Over shared memory the payload is copied into the slot; the others have the kernel copy it.
COPIED = ("shm",)
_TOKEN_BYTES = 4096


def _layout(plan: Plan) -> Layout:
    tokens = plan.n_bytes // _TOKEN_BYTES
    return Layout(hidden=_TOKEN_BYTES // 4, top_k=0, max_tokens=tokens, slots=SLOTS)


def _serve_channel(transport: str, pipe: Pipe, plan: Plan, directory: Path) -> None:
    layout = _layout(plan)
    bell = Doorbell()
    listener = transports.listen(transport, layout, bell, directory, epoch=1, peer="attention")
    pipe.send(listener.endpoint)
    channel = ReplyChannel(listener.accept(TIMEOUT_S), layout, 1)
    for _ in range(plan.echoes):
        request = channel.recv(TIMEOUT_S)
        if transport in COPIED:
            request.answer_TH.copy_(request.hidden_TH)
        channel.reply(request)
    for _ in range(plan.streamed):
        # An answer without a payload: only the credit goes back.
        channel.reply(channel.recv(TIMEOUT_S), Status.COMPUTE_FAILED)
    with contextlib.suppress(PeerLost):
        channel.recv(TIMEOUT_S)
    channel.close()
    bell.close()


class _ChannelEnd:
    def __init__(self, channel: RequestChannel, plan: Plan) -> None:
        self._channel = channel
        self._plan = plan
        self._copied = channel.link.transport in COPIED
        self._source_TH = torch.ones(plan.n_bytes // _TOKEN_BYTES, _TOKEN_BYTES // 4)

    def _post(self) -> None:
        slot = self._channel.acquire(self._source_TH.shape[0], TIMEOUT_S)
        if self._copied:
            slot.hidden_TH.copy_(self._source_TH)
        self._channel.post(slot, step=0, layer=0, micro_batch=0, routed=False)

    def round_trip(self) -> None:
        self._post()
        self._take()

    def stream(self) -> None:
        for index in range(self._plan.streamed):
            if index >= SLOTS:
                self._take()
            self._post()
        for _ in range(min(SLOTS, self._plan.streamed)):
            self._take()

    def _take(self) -> None:
        self._channel.release(self._channel.recv(TIMEOUT_S))


@contextlib.contextmanager
def _connect_channel(transport: str, endpoint: str, plan: Plan) -> Iterator[End]:
    bell, layout = Doorbell(), _layout(plan)
    link, epoch = transports.connect(
        transport, endpoint, layout, bell, peer="ffn", timeout_s=TIMEOUT_S
    )
    channel = RequestChannel(link, layout, epoch)
    yield _ChannelEnd(channel, plan)
    channel.close()
    bell.close()


def channel(transport: str) -> tuple[Server, Client]:
    """Both ends of a transport."""
    return partial(_serve_channel, transport), partial(_connect_channel, transport)
