"""The FFN of a disaggregated deployment, as the attention engine sees it.

Every micro-batch is broadcast to all shards; each answers with the part that its experts
contribute, and the parts are added here (Step-3 report, section on AFD; StepMesh's push-pull).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from shared.dataplane.channel import RequestChannel
from shared.dataplane.doorbell import Doorbell
from shared.dataplane.errors import Backpressure, ChannelTimeout, PeerFailed, PeerLost
from shared.dataplane.header import Kind, Status
from shared.dataplane.messages import Reply
from shared.errors import InvalidArgument
from shared.ffn.backend import Routing, Ticket

# Dimension key: T tokens, H hidden


@dataclass(slots=True)
class _InFlight:
    """A dispatched micro-batch and the answers so far, by shard rank."""

    ticket: Ticket
    deadline_ns: int
    replies: list[Reply | None]
    missing: int = field(init=False)

    def __post_init__(self) -> None:
        self.missing = len(self.replies)


class RemoteFfn:
    """`FfnBackend` over one channel to each shard. One thread uses it; any thread may close it.

    Parts are added in rank order in float32, so equal inputs give equal bits whichever shard is
    the first to answer. A lost shard fails every step from then on: its experts' part is missing
    and a sum without it would be wrong. Reconnecting means opening new channels.

    Args:
      channels: in rank order, all on `bell`.
      bell: closed with this object.
      deadline_s: from dispatch to the last shard's answer.
    """

    def __init__(
        self, channels: Sequence[RequestChannel], bell: Doorbell, deadline_s: float
    ) -> None:
        assert channels, "an FFN has at least one shard"
        assert [channel.shard_rank for channel in channels] == list(range(len(channels)))
        assert all(channel.link.bell is bell for channel in channels)
        self._channels = tuple(channels)
        self._bell = bell
        self._deadline_s = deadline_s
        self._in_flight: dict[int, _InFlight] = {}
        # The answer that the caller may still be reading, by micro-batch.
        self._lent: dict[int, tuple[RequestChannel, Reply]] = {}
        self._late = 0
        self._closed = False

    @property
    def max_tokens(self) -> int:
        """The most tokens that one dispatch carries."""
        return self._channels[0].layout.max_tokens

    def dispatch(
        self, step: int, layer: int, micro_batch: int, hidden_TH: Tensor, routing: Routing | None
    ) -> Ticket:
        """Write the tokens into one slot of every shard and post them.

        Raises:
          InvalidArgument: more tokens than a slot holds.
          Backpressure: no free slot within the deadline.
          PeerLost: a shard is gone.
          ChannelClosed: this object was closed.
        """
        n_tokens = hidden_TH.shape[0]
        if n_tokens > self.max_tokens:
            raise InvalidArgument(
                f"hidden_TH has {n_tokens} tokens: the data plane's slots hold {self.max_tokens}",
                reason="TOO_MANY_TOKENS",
            )
        stale = self._in_flight.get(micro_batch)
        if stale is not None:
            # A step that failed half-way leaves its other micro-batches uncollected.
            assert stale.ticket.step != step, "one dispatch of a micro-batch at a time"
            self._forget(micro_batch)
        self._give_back(micro_batch)
        deadline_ns = time.monotonic_ns() + int(self._deadline_s * 1e9)
        slots = []
        try:
            for rank, channel in enumerate(self._channels):
                if not channel.credits:
                    self._wait_for_credit(channel, deadline_ns)
                try:
                    slots.append(channel.acquire(n_tokens, 0.0))
                except PeerLost as error:
                    raise self._lost(rank, error) from error
        except BaseException:
            for channel, slot in zip(self._channels, slots, strict=False):
                channel.abandon(slot)
            raise
        for channel, slot in zip(self._channels, slots, strict=True):
            slot.hidden_TH.copy_(hidden_TH)
            if routing is not None:
                slot.expert_ids_TK.copy_(routing.expert_ids_TK)
                slot.weights_TK.copy_(routing.weights_TK)
            channel.post(
                slot,
                step=step,
                layer=layer,
                micro_batch=micro_batch,
                routed=routing is not None,
                deadline_us=int(self._deadline_s * 1e6),
            )
        ticket = Ticket(step, layer, micro_batch)
        self._in_flight[micro_batch] = _InFlight(ticket, deadline_ns, [None] * len(slots))
        return ticket

    def collect(self, ticket: Ticket) -> Tensor:
        """Wait for every shard's part and add them.

        Returns:
          [T, H] float32; with one float32 shard a view of its slot. Valid until the next dispatch
          of the same micro-batch.

        Raises:
          PeerLost: a shard is gone.
          PeerFailed: a shard could not compute its part.
          ChannelTimeout: a shard did not answer within the deadline.
        """
        entry = self._in_flight[ticket.micro_batch]
        assert entry.ticket == ticket, f"{entry.ticket} is in flight, not {ticket}"
        try:
            while True:
                self._drain()
                if not entry.missing:
                    break
                if not self._bell.wait(self._ready, entry.deadline_ns):
                    raise self._timeout(entry)
        except BaseException:
            self._forget(ticket.micro_batch)
            raise
        del self._in_flight[ticket.micro_batch]
        return self._combine(ticket.micro_batch, entry)

    def _combine(self, micro_batch: int, entry: _InFlight) -> Tensor:
        replies = [reply for reply in entry.replies if reply is not None]
        assert len(replies) == len(self._channels), "a partial sum is never returned"
        for rank, reply in enumerate(replies):
            if reply.header.kind == Kind.ERROR:
                self._release_all(entry)
                status = Status(reply.header.status).name
                raise PeerFailed(
                    f"FFN shard {rank} of {len(replies)} ({self._channels[rank].link.peer}) could "
                    f"not compute layer {entry.ticket.layer}: {status}",
                    metadata={"shard": str(rank)},
                )
        # Adding into the first shard's slot needs no memory; it is ours until it is released.
        total_TH = replies[0].hidden_TH.to(torch.float32)
        for channel, reply in zip(self._channels[1:], replies[1:], strict=True):
            total_TH.add_(reply.hidden_TH)
            channel.release(reply)
        self._lent[micro_batch] = (self._channels[0], replies[0])
        return total_TH

    def _drain(self) -> None:
        """Hand every answer that has arrived to its micro-batch; drop those of failed steps."""
        for rank, channel in enumerate(self._channels):
            while channel.ready():
                try:
                    reply = channel.try_recv()
                except PeerLost as error:
                    raise self._lost(rank, error) from error
                if reply is None:
                    break
                header = reply.header
                entry = self._in_flight.get(header.micro_batch)
                if (
                    entry is None
                    or header.step != entry.ticket.step
                    or header.layer != entry.ticket.layer
                    or entry.replies[rank] is not None
                ):
                    self._late += 1
                    channel.release(reply)
                    continue
                entry.replies[rank] = reply
                entry.missing -= 1

    def _ready(self) -> bool:
        if self._closed:
            return True
        return any(channel.ready() for channel in self._channels)

    def _wait_for_credit(self, channel: RequestChannel, deadline_ns: int) -> None:
        """Answers of earlier, failed steps still hold slots: take them as they come."""
        while True:
            self._drain()
            if channel.credits:
                return
            if not self._bell.wait(self._ready, deadline_ns):
                raise Backpressure(
                    f"{channel.link.peer} ({channel.link.transport}): all {channel.layout.slots} "
                    f"slots are in flight and none came free within {self._deadline_s:.3f} s"
                )

    def _lost(self, rank: int, error: PeerLost) -> PeerLost:
        return PeerLost(
            f"FFN shard {rank} of {len(self._channels)}: {error.message}",
            metadata={**error.metadata, "shard": str(rank)},
        )

    def _timeout(self, entry: _InFlight) -> ChannelTimeout:
        silent = [
            f"{rank} ({channel.link.peer})"
            for rank, (channel, reply) in enumerate(zip(self._channels, entry.replies, strict=True))
            if reply is None
        ]
        ticket = entry.ticket
        return ChannelTimeout(
            f"FFN shard {', '.join(silent)} of {len(self._channels)} did not answer step "
            f"{ticket.step}, layer {ticket.layer}, micro-batch {ticket.micro_batch} within "
            f"{self._deadline_s:.3f} s",
            metadata={"shards": ", ".join(silent)},
        )

    def _forget(self, micro_batch: int) -> None:
        """The step failed; answers that are still to come find nothing and are dropped."""
        entry = self._in_flight.pop(micro_batch, None)
        if entry is not None:
            self._release_all(entry)

    def _release_all(self, entry: _InFlight) -> None:
        for channel, reply in zip(self._channels, entry.replies, strict=True):
            if reply is not None:
                channel.release(reply)

    def _give_back(self, micro_batch: int) -> None:
        lent = self._lent.pop(micro_batch, None)
        if lent is not None:
            channel, reply = lent
            channel.release(reply)

    def describe(self) -> dict[str, str]:
        """Transport, shards and mean times in microseconds, for the server info.

        `wire_us` is the round trip less the time in the shard's hands: both legs of the way and
        both wake-ups, with no need for synchronised clocks.
        """
        facts = {
            "ffn": "disaggregated",
            "transport": self._channels[0].link.transport,
            "shards": str(len(self._channels)),
            "late_replies": str(self._late),
            "sleeps": str(self._bell.sleeps),
        }
        for rank, channel in enumerate(self._channels):
            stats = channel.stats()
            facts[f"shard_{rank}"] = channel.link.peer
            if stats.received:
                wire_ns = stats.round_trip_ns - stats.peer_ns
                facts[f"shard_{rank}_round_trip_us"] = _mean_us(stats.round_trip_ns, stats.received)
                facts[f"shard_{rank}_ffn_us"] = _mean_us(stats.peer_ns, stats.received)
                facts[f"shard_{rank}_wire_us"] = _mean_us(wire_ns, stats.received)
        return facts

    def close(self) -> None:
        """Hang up on every shard and wake a thread that waits in `collect`."""
        self._closed = True
        for channel in self._channels:
            channel.close()
        self._bell.close()


def _mean_us(total_ns: int, count: int) -> str:
    return f"{total_ns / count / 1e3:.1f}"
