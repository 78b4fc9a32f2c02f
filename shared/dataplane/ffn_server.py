"""The FFN shard's side: batches of whatever the attention instances have asked for.

A batch is everything that is ready for one layer, from any peer. Nobody is waited for beyond the
first message: an idle, slow or dead attention instance never holds up the others.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, replace

from shared.dataplane.channel import ReplyChannel
from shared.dataplane.doorbell import Doorbell
from shared.dataplane.errors import ChannelClosed, PeerLost, ProtocolError
from shared.dataplane.header import Status
from shared.dataplane.messages import Request


@dataclass(slots=True, eq=False)
class FfnItem:
    """One message of a batch; its tensors lie in the channel's memory.

    Read `request.hidden_TH`, `expert_ids_TK` and `weights_TK`, write `request.answer_TH`.
    """

    channel: ReplyChannel
    request: Request


@dataclass(slots=True, eq=False)
class FfnBatch:
    """Messages of one layer, in order of arrival; at least one."""

    layer: int
    items: list[FfnItem]

    @property
    def n_tokens(self) -> int:
        """Tokens of all messages; may be 0."""
        return sum(item.request.header.n_tokens for item in self.items)


@dataclass(slots=True)
class FfnServerStats:
    """Counts since the start."""

    peers: int = 0
    peers_lost: int = 0
    batches: int = 0
    messages: int = 0
    tokens: int = 0
    # Messages of peers that were gone before their answer was.
    dropped: int = 0


class FfnServer:
    """Owns the channels of one shard's attention peers.

    One thread calls `next_batch`, `respond` and `fail`; any thread may `add`, `stats` and `close`.
    """

    def __init__(self, shard_rank: int = 0) -> None:
        self.shard_rank = shard_rank
        self.bell = Doorbell()
        self._channels: tuple[ReplyChannel, ...] = ()
        # Taken from the channels and not yet part of a batch.
        self._waiting: deque[FfnItem] = deque()
        # Held to change the tuple of channels; readers take the tuple as it is.
        self._lock = threading.Lock()
        self._counts = FfnServerStats()
        self._last_losses: deque[str] = deque(maxlen=16)
        self._closed = False

    def add(self, channel: ReplyChannel) -> None:
        """Serve a new attention peer; its link must be on this server's bell."""
        assert channel.link.bell is self.bell
        with self._lock:
            if not self._closed:
                self._channels = (*self._channels, channel)
                self._counts.peers += 1
                self.bell.ring()
                return
        channel.close("the FFN is shutting down")

    def next_batch(self, timeout_s: float) -> FfnBatch | None:
        """Everything that is ready for the layer whose turn it is, or None after `timeout_s`.

        The turn is the oldest message's; messages of other layers stay for the next call.

        Raises:
          ChannelClosed: the server was closed.
        """
        deadline_ns = time.monotonic_ns() + int(timeout_s * 1e9)
        # A server that is never idle never sleeps, and would not hear of dead peers.
        self.bell.check()
        while True:
            if self._closed:
                raise ChannelClosed("the FFN's data plane is closed")
            self._drain()
            if self._waiting:
                return self._cut_batch()
            if not self.bell.wait(self._ready, deadline_ns):
                return None

    def _drain(self) -> None:
        for channel in self._channels:
            try:
                while channel.ready() and (request := channel.try_recv()) is not None:
                    self._waiting.append(FfnItem(channel, request))
            except (PeerLost, ProtocolError, ChannelClosed) as error:
                self._drop(channel, error.message)

    def _cut_batch(self) -> FfnBatch:
        layer = self._waiting[0].request.header.layer
        batch = FfnBatch(layer, [])
        rest: deque[FfnItem] = deque()
        for item in self._waiting:
            same = item.request.header.layer == layer
            (batch.items if same else rest).append(item)
        self._waiting = rest
        counts = self._counts
        counts.batches += 1
        counts.messages += len(batch.items)
        counts.tokens += batch.n_tokens
        return batch

    def respond(self, batch: FfnBatch) -> None:
        """Send every message's answer; answers to peers that are gone are dropped and counted."""
        self._reply(batch, Status.OK)

    def fail(self, batch: FfnBatch, status: Status = Status.COMPUTE_FAILED) -> None:
        """Tell every sender that its part was not computed; none may take it for zero."""
        self._reply(batch, status)

    def _reply(self, batch: FfnBatch, status: Status) -> None:
        for item in batch.items:
            try:
                item.channel.reply(item.request, status)
            except (PeerLost, ChannelClosed) as error:
                self._counts.dropped += 1
                self._drop(item.channel, error.message)

    def _ready(self) -> bool:
        return self._closed or any(channel.ready() for channel in self._channels)

    def _drop(self, channel: ReplyChannel, why: str) -> None:
        with self._lock:
            if channel not in self._channels:
                return
            self._channels = tuple(c for c in self._channels if c is not channel)
            self._counts.peers -= 1
            self._counts.peers_lost += 1
            self._last_losses.append(why)
        channel.close()
        kept = deque(item for item in self._waiting if item.channel is not channel)
        self._counts.dropped += len(self._waiting) - len(kept)
        self._waiting = kept

    def stats(self) -> FfnServerStats:
        """A copy of the counts."""
        return replace(self._counts)

    def losses(self) -> list[str]:
        """Why the last peers went, the newest last."""
        return list(self._last_losses)

    def close(self) -> None:
        """Hang up on every peer and wake a thread that waits in `next_batch`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            channels, self._channels = self._channels, ()
        for channel in channels:
            channel.close("the FFN is shutting down")
        self.bell.close()
