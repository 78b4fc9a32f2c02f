"""How attention and FFN find each other: gRPC agrees on a channel, then the transport connects."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from step3.v1 import dataplane_pb2, dataplane_pb2_grpc

from shared.dataplane import tcp, transports
from shared.dataplane.channel import ReplyChannel, RequestChannel
from shared.dataplane.doorbell import Doorbell
from shared.dataplane.errors import ChannelTimeout, PeerLost
from shared.dataplane.ffn_server import FfnServer
from shared.dataplane.layout import PROTOCOL_VERSION, Layout, dtype_name, dtype_of
from shared.dataplane.remote_ffn import RemoteFfn
from shared.errors import FailedPrecondition, InvalidArgument, Step3Error, Unavailable
from shared.model.config import TextConfig
from shared.rpc.client import RpcError, open_channel

logger = logging.getLogger(__name__)

# From the answer to OpenChannel until attention must have connected.
_ACCEPT_S = 5.0
# Between two attempts, of one attempt, and between two lines in the log.
_RETRY_S = 0.1
_ATTEMPT_S = 2.0
_REPORT_S = 5.0
_AGAIN = frozenset((grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED))


def model_id(config: TextConfig) -> str:
    """Fingerprint of a model's configuration; attention and FFN compare theirs."""
    return hashlib.sha256(repr(config).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """What an FFN shard says of itself.

    Args:
      rank: 0 to num_shards - 1; partial results are added in this order.
      num_shards: of the whole FFN.
      expert_begin: the first expert of every MoE layer that it owns.
      expert_end: one past the last.
      hidden: width of a token's hidden state.
      top_k: routed experts chosen per token.
      model_id: see `model_id`.
    """

    rank: int
    num_shards: int
    expert_begin: int
    expert_end: int
    hidden: int
    top_k: int
    model_id: str


class DataPlaneServicer(dataplane_pb2_grpc.DataPlaneServiceServicer):
    """The FFN's half: opens channels for attention instances and adds them to `server`.

    Args:
      server: takes the channels.
      shard: this shard.
      directory: for unix sockets, those that hand over shared memory too; private to the user.
      host: the address that tcp listens on.
    """

    def __init__(
        self, server: FfnServer, shard: ShardInfo, directory: Path, host: str = "127.0.0.1"
    ) -> None:
        self._server = server
        self._shard = shard
        self._directory = directory
        self._host = host
        # A random start: a restarted shard does not repeat the epochs of its former life.
        self._epochs = itertools.count(secrets.randbits(31))
        self._accepting: set[asyncio.Task[None]] = set()

    async def OpenChannel(
        self, request: dataplane_pb2.OpenChannelRequest, context: Any
    ) -> dataplane_pb2.OpenChannelResponse:
        """Agree on layout and transport, and listen for the caller.

        Raises:
          FailedPrecondition: the two sides do not fit; the text says in what.
          InvalidArgument: the layout is not one.
        """
        shard = self._shard
        layout = self._agree(request)
        transport = _choose(request)
        epoch = next(self._epochs)
        listener = transports.listen(
            transport,
            layout,
            self._server.bell,
            self._directory,
            epoch=epoch,
            peer=request.peer_name,
            host=self._host,
        )
        task = asyncio.create_task(self._accept(listener, layout, epoch, request.peer_name))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)
        return dataplane_pb2.OpenChannelResponse(
            session_epoch=epoch,
            transport=transport,
            endpoint=listener.endpoint,
            shard_rank=shard.rank,
            num_shards=shard.num_shards,
            expert_begin=shard.expert_begin,
            expert_end=shard.expert_end,
        )

    def _agree(self, request: dataplane_pb2.OpenChannelRequest) -> Layout:
        shard = self._shard
        for name, theirs, ours in (
            ("protocol_version", request.protocol_version, PROTOCOL_VERSION),
            ("hidden", request.layout.hidden, shard.hidden),
            ("top_k", request.layout.top_k, shard.top_k),
            ("model_id", request.model_id, shard.model_id),
        ):
            if theirs != ours:
                raise FailedPrecondition(
                    f"{name} = {theirs!r}: FFN shard {shard.rank} has {ours!r}; run both sides "
                    "from the same version and model folder",
                    reason="DATA_PLANE_MISMATCH",
                    field=name,
                )
        wanted = request.layout
        try:
            return Layout(
                hidden=wanted.hidden,
                top_k=wanted.top_k,
                max_tokens=wanted.max_tokens,
                slots=wanted.slots,
                dispatch_dtype=dtype_of(wanted.dispatch_dtype),
                combine_dtype=dtype_of(wanted.combine_dtype),
            )
        except ValueError as error:
            raise InvalidArgument(str(error), reason="BAD_LAYOUT", field="layout") from error

    async def _accept(
        self, listener: transports.Listener, layout: Layout, epoch: int, peer: str
    ) -> None:
        try:
            link = await asyncio.to_thread(listener.accept, _ACCEPT_S)
        except Step3Error as error:
            logger.warning("no channel: %s", error)
            return
        self._server.add(ReplyChannel(link, layout, epoch, self._shard.rank))
        logger.info("channel to %s over %s, epoch %d", peer, link.transport, epoch)


def _choose(request: dataplane_pb2.OpenChannelRequest) -> str:
    obstacles = []
    for transport in request.transports:
        why = transports.obstacle(transport, request.host_id, request.process_id)
        if why is None:
            return transport
        obstacles.append(why)
    raise FailedPrecondition(
        f"no transport reaches {request.peer_name}: {'; '.join(obstacles) or 'none was offered'}",
        reason="TRANSPORT_UNAVAILABLE",
        field="transports",
    )


def open_channels(
    addresses: Sequence[str],
    layout: Layout,
    *,
    model_id: str,
    num_experts: int,
    peer_name: str,
    transport: str = "auto",
    timeout_s: float = 30.0,
    deadline_s: float = 10.0,
) -> RemoteFfn:
    """Attention's half: a channel to every shard. Blocks; call it outside the event loop.

    Args:
      addresses: host:port of every shard's gRPC server, in any order.
      layout: of the channels.
      model_id: see `model_id`.
      num_experts: of a MoE layer; the shards together must own each exactly once.
      peer_name: this attention instance, in the shards' logs.
      transport: a name, or "auto" for the fastest that works.
      timeout_s: for all shards together; while waiting, the log says for whom and why.
      deadline_s: of each FFN answer later on.

    Raises:
      Unavailable: a shard could not be reached in time.
      FailedPrecondition: a shard does not fit, or the shards do not fit together.
    """
    offer = transports.candidates(transport)
    deadline = time.monotonic() + timeout_s
    bell = Doorbell()
    opened: list[_Opened] = []
    try:
        for index, address in enumerate(addresses):
            name = f"FFN shard {index + 1} of {len(addresses)} at {address}"
            request = _request(layout, offer, model_id, peer_name)
            opened.append(_open(address, name, request, layout, bell, deadline))
        opened.sort(key=lambda shard: shard.info.shard_rank)
        _check_together(opened, num_experts)
    except BaseException:
        for shard in opened:
            shard.channel.close("the other shards are missing or do not fit")
        bell.close()
        raise
    return RemoteFfn([shard.channel for shard in opened], bell, deadline_s)


@dataclass(frozen=True, slots=True)
class _Opened:
    address: str
    info: dataplane_pb2.OpenChannelResponse
    channel: RequestChannel


def _request(
    layout: Layout, offer: Sequence[str], model_id: str, peer_name: str
) -> dataplane_pb2.OpenChannelRequest:
    return dataplane_pb2.OpenChannelRequest(
        protocol_version=PROTOCOL_VERSION,
        peer_name=peer_name,
        host_id=transports.host_id(),
        process_id=transports.PROCESS_ID,
        transports=offer,
        layout=dataplane_pb2.ChannelLayout(
            hidden=layout.hidden,
            top_k=layout.top_k,
            max_tokens=layout.max_tokens,
            slots=layout.slots,
            dispatch_dtype=dtype_name(layout.dispatch_dtype),
            combine_dtype=dtype_name(layout.combine_dtype),
        ),
        model_id=model_id,
    )


def _open(
    address: str,
    name: str,
    request: dataplane_pb2.OpenChannelRequest,
    layout: Layout,
    bell: Doorbell,
    deadline: float,
) -> _Opened:
    """Try until `deadline`, and say meanwhile what is missing."""
    report_at = time.monotonic()
    started = report_at
    with open_channel(address) as grpc_channel:
        stub = dataplane_pb2_grpc.DataPlaneServiceStub(grpc_channel)
        while True:
            left = deadline - time.monotonic()
            try:
                info = stub.OpenChannel(request, timeout=max(0.001, min(left, _ATTEMPT_S)))
                peer = f"FFN shard {info.shard_rank} at {address}"
                link, epoch = transports.connect(
                    info.transport,
                    tcp.reachable(info.endpoint, address.rpartition(":")[0]),
                    layout,
                    bell,
                    peer=peer,
                    timeout_s=_ATTEMPT_S,
                )
                return _Opened(address, info, RequestChannel(link, layout, epoch, info.shard_rank))
            except grpc.RpcError as error:
                status = RpcError.of(error)
                why = status.message
                if status.code not in _AGAIN:
                    raise FailedPrecondition(f"{name}: {why}", reason=status.reason) from error
            except (PeerLost, ChannelTimeout) as error:
                why = error.message
            now = time.monotonic()
            if now >= deadline:
                raise Unavailable(
                    f"{name} opened no channel within {now - started:.1f} s: {why}",
                    reason="FFN_UNREACHABLE",
                    metadata={"address": address},
                )
            if now >= report_at:
                logger.warning("waiting for %s: %s", name, why)
                report_at = now + _REPORT_S
            time.sleep(min(_RETRY_S, max(0.0, deadline - now)))


def _check_together(shards: Sequence[_Opened], num_experts: int) -> None:
    """The shards, sorted by rank, are one whole FFN: no part missing, none there twice."""
    problem = None
    for rank, shard in enumerate(shards):
        info = shard.info
        if info.num_shards != len(shards):
            problem = f"{shard.address} is one of {info.num_shards} shards, {len(shards)} are given"
        elif info.shard_rank != rank:
            problem = f"no address is shard {rank} of {len(shards)}, or one is given twice"
        if problem:
            break
    ranges = sorted((shard.info.expert_begin, shard.info.expert_end) for shard in shards)
    covered = 0
    for begin, end in ranges:
        if not problem and begin != covered:
            problem = f"expert ranges meet badly at {covered}: the next is [{begin}, {end})"
        covered = end
    if not problem and covered != num_experts:
        problem = f"the shards own {covered} experts, the model has {num_experts}"
    if problem:
        raise FailedPrecondition(
            f"the FFN is not whole: {problem}", reason="DATA_PLANE_MISMATCH", field="addresses"
        )
