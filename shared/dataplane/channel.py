"""The two ends of a channel between one attention instance and one FFN shard.

Attention acquires a slot, writes hidden states and routing in place and posts it (DISPATCH). The
FFN computes from that memory straight into the combine slot of the same number and posts it
(COMBINE). That answer is also the credit: when attention has released it, both slots are free
again. So one number, the slot, carries flow control for both directions, and memory is bounded
by construction. Messages arrive in the order in which they were posted.

One thread uses an end at a time; `close` and `release` may be called from any thread.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from shared.dataplane.errors import (
    Backpressure,
    ChannelClosed,
    ChannelTimeout,
    PeerLost,
    ProtocolError,
)
from shared.dataplane.header import (
    MAGIC,
    Header,
    HeaderCheck,
    Kind,
    Status,
    pack_into,
    unpack,
)
from shared.dataplane.layout import DTYPE_CODES, PROTOCOL_VERSION, Layout
from shared.dataplane.link import Link
from shared.dataplane.messages import Reply, Request, Slot


@dataclass(slots=True)
class ChannelStats:
    """Counts since the channel was opened; the `_ns` are sums over answered messages."""

    posted: int = 0
    received: int = 0
    # Arrived again (seq not above the last one): ignored.
    duplicates: int = 0
    # From post to answer, on this end's clock, and the part that the peer had it in hand.
    round_trip_ns: int = 0
    peer_ns: int = 0


MessageT = TypeVar("MessageT", Reply, Request)


class _Channel(ABC, Generic[MessageT]):
    """What both ends do: receive in order with a deadline, notice the peer's end, close."""

    def __init__(self, link: Link, layout: Layout, check: HeaderCheck, epoch: int) -> None:
        self.link = link
        self.layout = layout
        self.epoch = epoch
        self.counts = ChannelStats()
        self._check = check
        self._receive_memory = link.recv_slots()
        self._send_memory = link.send_slots()
        self._next_seq = 1
        self._last_seen_seq = 0
        self._closed = False

    def recv(self, timeout_s: float) -> MessageT:
        """The next message, waiting for it at most `timeout_s`.

        Raises:
          ChannelTimeout: nothing came in time, and the peer is alive.
          PeerLost: the peer is gone and everything that it had posted was received.
          ProtocolError: the message breaks the contract; the channel is now closed.
          ChannelClosed: this end was closed.
        """
        deadline_ns = time.monotonic_ns() + int(timeout_s * 1e9)
        while True:
            message = self.try_recv()
            if message is not None:
                return message
            if not self.link.bell.wait(self.ready, deadline_ns):
                raise ChannelTimeout(
                    f"{self.link.peer} ({self.link.transport}): no message within "
                    f"{timeout_s * 1e3:.0f} ms"
                )

    def try_recv(self) -> MessageT | None:
        """The next message if it has arrived. Raises as `recv` does, but for ChannelTimeout."""
        self._check_open()
        try:
            while (index := self.link.take()) is not None:
                header = unpack(self._receive_memory, index * self._slot_bytes())
                self._check(header, index)
                if header.seq <= self._last_seen_seq:
                    self.counts.duplicates += 1
                    continue
                if header.seq != self._last_seen_seq + 1:
                    raise ProtocolError(
                        f"message header: seq = {header.seq} after {self._last_seen_seq}"
                    )
                message = self._accept(header, index)
                self._last_seen_seq = header.seq
                self.counts.received += 1
                return message
        except ProtocolError as error:
            text = f"{self.link.peer} ({self.link.transport}): {error.message}"
            self.close(f"protocol error: {error.message}")
            raise ProtocolError(text) from error
        self._check_peer()
        return None

    def ready(self) -> bool:
        """Whether `try_recv` would return a message or raise."""
        return self._closed or self.link.ready() or self.link.lost is not None

    def stats(self) -> ChannelStats:
        """A copy of the counts."""
        return replace(self.counts)

    def close(self, reason: str = "closed") -> None:
        """Wake every waiter and hang up. The memory goes with the last view of it.

        Args:
          reason: told to the peer.
        """
        if self._closed:
            return
        self._closed = True
        self.link.bell.ring()
        self.link.close(reason)

    def _check_open(self) -> None:
        if self._closed:
            raise ChannelClosed(f"{self.link.peer} ({self.link.transport}): channel is closed")

    def _check_peer(self) -> None:
        if self.link.lost is not None:
            raise PeerLost(
                f"{self.link.peer} ({self.link.transport}) was lost: {self.link.lost}",
                metadata={"peer": self.link.peer, "transport": self.link.transport},
            )

    @abstractmethod
    def _slot_bytes(self) -> int:
        """Bytes of a slot in the memory that this end receives in."""

    @abstractmethod
    def _accept(self, header: Header, index: int) -> MessageT:
        """The message of a checked header in slot `index`."""


class RequestChannel(_Channel[Reply]):
    """The attention end: owns the credits."""

    def __init__(self, link: Link, layout: Layout, epoch: int, shard_rank: int = 0) -> None:
        check = HeaderCheck(layout, (Kind.COMBINE, Kind.ERROR), epoch)
        super().__init__(link, layout, check, epoch)
        self.shard_rank = shard_rank
        self._sections = HeaderCheck(layout, (Kind.DISPATCH,), epoch).sections
        indexes = range(layout.slots)
        self._slots = [
            Slot(self._send_memory, i, layout.dispatch, layout, layout.dispatch_dtype)
            for i in indexes
        ]
        self._answers = [
            Slot(self._receive_memory, i, layout.combine, layout, layout.combine_dtype)
            for i in indexes
        ]
        self._free = deque(indexes)
        # Tokens of every message that was posted and not answered, by slot.
        self._posted: dict[int, int] = {}

    @property
    def credits(self) -> int:
        """Slots that `acquire` can hand out without waiting."""
        return len(self._free)

    def acquire(self, n_tokens: int, timeout_s: float) -> Slot:
        """A slot to write `n_tokens` into, 0 to max_tokens; waits for a release if all are out.

        Raises:
          Backpressure: no slot came free in time.
          PeerLost, ChannelClosed: as `recv`.
        """
        if not 0 <= n_tokens <= self.layout.max_tokens:
            raise ValueError(
                f"n_tokens = {n_tokens}: this channel carries 0 to {self.layout.max_tokens}"
            )
        self._check_open()
        self.link.bell.check()
        self._check_peer()
        if not self._free:
            self._wait_for_credit(timeout_s)
        slot = self._slots[self._free.popleft()]
        slot.resize(n_tokens)
        return slot

    def _wait_for_credit(self, timeout_s: float) -> None:
        deadline_ns = time.monotonic_ns() + int(timeout_s * 1e9)

        def free_or_over() -> bool:
            return bool(self._free) or self._closed or self.link.lost is not None

        if not self.link.bell.wait(free_or_over, deadline_ns):
            raise Backpressure(
                f"{self.link.peer} ({self.link.transport}): all {self.layout.slots} slots are in "
                f"flight and none came free within {timeout_s * 1e3:.0f} ms"
            )
        self._check_open()
        self._check_peer()

    def post(
        self,
        slot: Slot,
        *,
        step: int,
        layer: int,
        micro_batch: int,
        routed: bool,
        deadline_us: int = 0,
    ) -> None:
        """Send a written slot; it belongs to the peer until its answer is released.

        Args:
          slot: from `acquire`, its views filled in.
          step: counts engine steps; with layer and micro_batch it names the message.
          layer: index of the decoder layer.
          micro_batch: index within the step.
          routed: whether expert ids and weights are filled in; False on dense layers.
          deadline_us: how long the sender will wait for the answer; 0 when it does not say.

        Raises:
          ChannelClosed: this end was closed.
        """
        self._check_open()
        layout = self.layout
        top_k = layout.top_k if routed else 0
        pack_into(
            self._send_memory, slot.offset,
            MAGIC, PROTOCOL_VERSION, Kind.DISPATCH, 0,
            self.epoch, 0, self.shard_rank,
            self._next_seq, step, layer, micro_batch, 0, slot.index, layout.slots,
            slot.n_tokens, layout.hidden, top_k, DTYPE_CODES[layout.dispatch_dtype], 0,
            *self._sections(slot.n_tokens, top_k),
            0, deadline_us, time.monotonic_ns(), 0, 0, 0, Status.OK,
        )  # fmt: skip
        self._next_seq += 1
        self._posted[slot.index] = slot.n_tokens
        self.counts.posted += 1
        self.link.publish(slot.index)

    def abandon(self, slot: Slot) -> None:
        """Give back an acquired slot without posting it."""
        self._free.append(slot.index)
        self.link.bell.ring()

    def release(self, reply: Reply) -> None:
        """The answer was read: its slot may be used again. Any thread may call this."""
        self._free.append(reply.slot.index)
        if len(self._free) == 1:
            self.link.bell.ring()

    def _slot_bytes(self) -> int:
        return self.layout.combine.slot_bytes

    def _accept(self, header: Header, index: int) -> Reply:
        asked = self._posted.pop(index, None)
        if asked is None:
            raise ProtocolError(f"an answer in slot {index}, where nothing was asked")
        if header.kind == Kind.COMBINE and header.n_tokens != asked:
            raise ProtocolError(f"an answer for {header.n_tokens} tokens, asked for {asked}")
        slot = self._answers[index]
        slot.resize(header.n_tokens)
        self.counts.round_trip_ns += time.monotonic_ns() - header.t_post_ns
        self.counts.peer_ns += header.t_done_ns - header.t_recv_ns
        return Reply(header, slot)


class ReplyChannel(_Channel[Request]):
    """The FFN end: answers what it is asked, in any order."""

    def __init__(self, link: Link, layout: Layout, epoch: int, shard_rank: int = 0) -> None:
        super().__init__(link, layout, HeaderCheck(layout, (Kind.DISPATCH,), epoch), epoch)
        self.shard_rank = shard_rank
        self._sections = HeaderCheck(layout, (Kind.COMBINE,), epoch).sections
        indexes = range(layout.slots)
        self._slots = [
            Slot(self._receive_memory, i, layout.dispatch, layout, layout.dispatch_dtype)
            for i in indexes
        ]
        self._answers = [
            Slot(self._send_memory, i, layout.combine, layout, layout.combine_dtype)
            for i in indexes
        ]
        self._in_hand: set[int] = set()

    def reply(self, request: Request, status: Status = Status.OK) -> None:
        """Send what was computed into `request.answer_TH`, or only why it was not computed.

        Raises:
          PeerLost, ChannelClosed: nobody waits for this answer any more.
        """
        assert not request.answered, "a request is answered once"
        self._check_open()
        self._check_peer()
        request.answered = True
        asked, slot, layout = request.header, request.answer, self.layout
        n_tokens, kind = asked.n_tokens, Kind.COMBINE
        if status is not Status.OK:
            n_tokens, kind = 0, Kind.ERROR
        pack_into(
            self._send_memory, slot.offset,
            MAGIC, PROTOCOL_VERSION, kind, 0,
            self.epoch, self.shard_rank, asked.src,
            self._next_seq, asked.step, asked.layer, asked.micro_batch, 0, slot.index, layout.slots,
            n_tokens, layout.hidden, 0, DTYPE_CODES[layout.combine_dtype], 0,
            *self._sections(n_tokens, 0),
            1, 0, asked.t_post_ns, request.received_ns, time.monotonic_ns(), 0, status,
        )  # fmt: skip
        self._next_seq += 1
        self._in_hand.remove(slot.index)
        self.counts.posted += 1
        self.link.publish(slot.index)

    def _slot_bytes(self) -> int:
        return self.layout.dispatch.slot_bytes

    def _accept(self, header: Header, index: int) -> Request:
        if index in self._in_hand:
            raise ProtocolError(f"slot {index} was posted again before it was answered")
        self._in_hand.add(index)
        slot, answer = self._slots[index], self._answers[index]
        slot.resize(header.n_tokens)
        answer.resize(header.n_tokens)
        return Request(header, slot, answer, time.monotonic_ns())
