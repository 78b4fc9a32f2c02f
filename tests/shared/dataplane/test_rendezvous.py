from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest
import torch
from step3.v1 import dataplane_pb2_grpc

from shared.dataplane import rendezvous, transports
from shared.dataplane.errors import ChannelClosed
from shared.dataplane.ffn_server import FfnServer
from shared.dataplane.layout import Layout
from shared.dataplane.rendezvous import DataPlaneServicer, ShardInfo, open_channels
from shared.errors import FailedPrecondition, Unavailable
from shared.rpc.server import RpcServer
from shared.settings import Settings

LAYOUT = Layout(hidden=16, top_k=2, max_tokens=8)
SHARD = ShardInfo(
    rank=0, num_shards=1, expert_begin=0, expert_end=8, hidden=16, top_k=2, model_id="m"
)
SERVICE = "step3.v1.DataPlaneService"


class Shard:
    """An FFN shard behind a real gRPC server on a free port."""

    def __init__(self, info: ShardInfo, directory) -> None:
        self.data_plane = FfnServer(info.rank)
        self.rpc = RpcServer("ffn", Settings(), port=0)
        servicer = DataPlaneServicer(self.data_plane, info, directory)
        add = dataplane_pb2_grpc.add_DataPlaneServiceServicer_to_server
        self.rpc.add(SERVICE, add, servicer)

    async def start(self) -> None:
        await self.rpc.start()
        await self.rpc.set_serving(True)

    async def stop(self) -> None:
        self.data_plane.close()
        hurry = asyncio.Event()
        hurry.set()
        await self.rpc.drain(hurry)

    def answer_once(self) -> None:
        batch = self.data_plane.next_batch(5.0)
        assert batch is not None
        for item in batch.items:
            torch.mul(item.request.hidden_TH, 2, out=item.request.answer_TH)
        self.data_plane.respond(batch)


@pytest.fixture
async def start_shard(tmp_path):
    shards: list[Shard] = []

    async def start(**change: object) -> Shard:
        shards.append(Shard(replace(SHARD, **change), tmp_path))
        await shards[-1].start()
        return shards[-1]

    yield start
    for shard in shards:
        await shard.stop()


async def connect(*shards: Shard | str, layout: Layout = LAYOUT, **options: object):
    addresses = [shard if isinstance(shard, str) else shard.rpc.address for shard in shards]
    arguments = {
        "model_id": "m",
        "num_experts": 8,
        "peer_name": "attention 0",
        "timeout_s": 5.0,
        **options,
    }
    return await asyncio.to_thread(open_channels, addresses, layout, **arguments)


@pytest.mark.parametrize("transport", ["auto", *transports.TRANSPORTS])
async def test_two_shards_answer_whatever_the_order_of_their_addresses(start_shard, transport):
    first = await start_shard(num_shards=2, expert_end=4)
    second = await start_shard(rank=1, num_shards=2, expert_begin=4)
    backend = await connect(second, first, transport=transport)
    facts = backend.describe()
    assert facts["transport"] == ("inproc" if transport == "auto" else transport)
    assert facts["shard_0"] == f"FFN shard 0 at {first.rpc.address}"
    ticket = backend.dispatch(1, 0, 0, torch.ones(3, 16), None)
    for shard in (first, second):
        await asyncio.to_thread(shard.answer_once)
    assert bool((backend.collect(ticket) == 4.0).all())
    backend.close()


async def test_auto_takes_shared_memory_between_processes(start_shard, monkeypatch):
    shard = await start_shard()
    monkeypatch.setattr(transports, "obstacle", _as_if_in_another_process)
    backend = await connect(shard)
    assert backend.describe()["transport"] == "shm"
    backend.close()


_obstacle = transports.obstacle


def _as_if_in_another_process(transport: str, host_id: str, process_id: str) -> str | None:
    return _obstacle(transport, host_id, "another")


async def test_another_host_is_out_of_reach_in_words(start_shard, monkeypatch):
    shard = await start_shard()
    boot_ids = iter(["here"])
    monkeypatch.setattr(transports, "host_id", lambda: next(boot_ids, "there"))
    with pytest.raises(
        FailedPrecondition, match=r"FFN shard 1 of 1 at .*no transport .* run on two"
    ):
        await connect(shard, transport="shm")


async def test_a_transport_by_name_that_is_absent_fails_loudly():
    with pytest.raises(FailedPrecondition, match="transport = 'verbs': not available here"):
        await connect("127.0.0.1:1", transport="verbs")


@pytest.mark.parametrize(
    ("layout", "model_id", "text"),
    [
        (replace(LAYOUT, hidden=32), "m", "hidden = 32: FFN shard 0 has 16"),
        (replace(LAYOUT, top_k=3), "m", "top_k = 3: FFN shard 0 has 2"),
        (LAYOUT, "other", "model_id = 'other': FFN shard 0 has 'm'"),
    ],
)
async def test_sides_that_do_not_fit_are_told_apart(start_shard, layout, model_id, text):
    shard = await start_shard()
    with pytest.raises(FailedPrecondition, match=text):
        await connect(shard, layout=layout, model_id=model_id)


async def test_another_protocol_version_is_refused(start_shard, monkeypatch):
    shard = await start_shard()
    make = rendezvous._request

    def request(*arguments):
        message = make(*arguments)
        message.protocol_version = 9
        return message

    monkeypatch.setattr(rendezvous, "_request", request)
    with pytest.raises(FailedPrecondition, match="protocol_version = 9: FFN shard 0 has 1"):
        await connect(shard)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ([{"num_shards": 2}], "one of 2 shards, 1 are given"),
        ([{"num_shards": 2}, {"num_shards": 2}], "no address is shard 1 of 2"),
        ([{"expert_end": 7}], "own 7 experts, the model has 8"),
        (
            [{"num_shards": 2, "expert_end": 3}, {"rank": 1, "num_shards": 2, "expert_begin": 4}],
            r"meet badly at 3: the next is \[4, 8\)",
        ),
    ],
)
async def test_shards_that_are_not_one_whole_ffn_are_refused(start_shard, changes, text):
    shards = [await start_shard(**change) for change in changes]
    with pytest.raises(FailedPrecondition, match=text):
        await connect(*shards)


async def test_a_missing_shard_is_named_while_and_after_waiting(start_shard, caplog):
    here = await start_shard(num_shards=2, expert_end=4)
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(Unavailable, match=r"FFN shard 2 of 2 at 127.0.0.1:1 opened no channel"),
    ):
        await connect(here, "127.0.0.1:1", timeout_s=0.5)
    assert "waiting for FFN shard 2 of 2 at 127.0.0.1:1: " in caplog.text


async def test_a_shard_that_comes_late_is_found(start_shard, tmp_path):
    late = Shard(SHARD, tmp_path)
    connecting = asyncio.create_task(connect(late, timeout_s=20.0))
    await asyncio.sleep(0.3)
    assert not connecting.done()
    await late.start()
    backend = await connecting
    backend.close()
    await late.stop()


async def test_a_new_session_has_a_new_epoch(start_shard):
    shard = await start_shard()
    backends = [await connect(shard) for _ in range(2)]
    first, second = (backend._channels[0].epoch for backend in backends)
    assert first != second
    for backend in backends:
        backend.close()
    with pytest.raises(ChannelClosed):
        backends[0].dispatch(1, 0, 0, torch.ones(1, 16), None)
