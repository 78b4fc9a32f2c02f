"""Cancel, deadline, abort, lost backends: every ending reaches both sides."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest
from step3.v1 import attention_pb2_grpc, chat_pb2, common_pb2

from shared.errors import Unavailable
from shared.rpc.client import Channels, RpcError
from shared.rpc.health import Health, check_async
from shared.rpc.server import RpcServer

END_THINK = 508


async def failure(call) -> tuple[RpcError, list[chat_pb2.StreamGenerateResponse]]:
    events = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for event in call:
            events.append(event)
    return RpcError.of(caught.value), events


async def idle(world) -> None:
    """Wait until the gateway holds nothing of any request."""
    async with asyncio.timeout(3):
        while world.service.capabilities()["running"] != "0":
            await asyncio.sleep(0.01)


async def test_client_cancel_reaches_the_inner_call(world, attention, ask, ids):
    script = attention([ids("a"), 60.0])
    stub = await world.start(script)
    call = stub.StreamGenerate(ask("a"), timeout=20)
    await call.read()
    await script.running.wait()
    call.cancel()
    await asyncio.wait_for(script.cancelled.wait(), 2)
    await idle(world)


async def test_cancel_of_a_whole_answer_reaches_the_inner_call(world, attention, ask):
    script = attention([60.0])
    stub = await world.start(script)
    call = stub.Generate(ask("a").request, timeout=20)
    waiting = asyncio.ensure_future(call)
    await script.running.wait()
    call.cancel()
    await asyncio.wait_for(script.cancelled.wait(), 2)
    await idle(world)
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_client_deadline_ends_the_inner_call(world, attention, ask):
    script = attention([60.0])
    stub = await world.start(script)
    error, _ = await failure(stub.StreamGenerate(ask("a"), timeout=0.5))
    assert error.code == grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(script.cancelled.wait(), 2)
    await idle(world)


async def test_default_deadline(world, attention, ask, settings):
    short = settings.gateway.model_copy(update={"default_deadline_s": 0.5})
    world.settings = settings.model_copy(update={"gateway": short})
    stub = await world.start(attention([60.0]))
    error, _ = await failure(stub.StreamGenerate(ask("a")))
    assert error.code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert error.reason == "DEADLINE_EXCEEDED"


async def test_abort_ends_the_answer_and_the_inner_call(world, attention, ask, ids):
    script = attention([[END_THINK, *ids("partial ")], 60.0])
    stub = await world.start(script)
    call = stub.StreamGenerate(ask("a", request_id="r"), timeout=20)
    abort = chat_pb2.AbortGenerateRequest(request_id="r")
    events = []
    async for event in call:
        events.append(event)
        if event.WhichOneof("event") == "delta" and len(events) == 2:
            assert (await stub.AbortGenerate(abort, timeout=5)).found
    finished = events[-1].finished
    assert finished.finish_reason == common_pb2.FINISH_REASON_ABORTED
    assert finished.usage.completion_tokens == 9
    assert "".join(event.delta.content for event in events) == "partial "
    await asyncio.wait_for(script.cancelled.wait(), 2)
    await idle(world)
    assert not (await stub.AbortGenerate(abort, timeout=5)).found


async def test_peer_lost_before_the_first_token(world, attention, ask, ids, end_server):
    script = attention([60.0])
    stub = await world.start(script)
    call = stub.StreamGenerate(ask("a"), timeout=20)
    await script.running.wait()
    ending = asyncio.create_task(end_server(world.attention_servers[0]))
    error, _ = await failure(call)
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "BACKEND_LOST")
    assert error.retry_after_s == 1.0
    await ending


async def test_peer_lost_after_the_first_token(world, attention, ask, ids, end_server):
    script = attention([ids("abc"), 60.0])
    stub = await world.start(script)
    call = stub.StreamGenerate(ask("a"), timeout=20)
    await script.running.wait()
    ending = asyncio.create_task(end_server(world.attention_servers[0]))
    error, events = await failure(call)
    assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "BACKEND_LOST")
    assert error.metadata["tokens_delivered"] == "3"
    assert events[-1].delta.reasoning == "abc"
    await ending


async def test_another_instance_takes_over_before_the_first_token(world, attention, ask, ids):
    draining = Unavailable("draining", reason="DRAINING", retry_after_s=1.0)
    first = attention([draining])
    second = attention([[END_THINK, *ids("ok")]])
    stub = await world.start(first, second)
    async with asyncio.timeout(3):
        while not all(i.serving for i in world.backends.attention._instances):
            await asyncio.sleep(0.01)
    events = [event async for event in stub.StreamGenerate(ask("a"), timeout=20)]
    assert [event.WhichOneof("event") for event in events].count("started") == 1
    assert "".join(event.delta.content for event in events) == "ok"
    assert len(first.requests) == len(second.requests) == 1


async def test_stream_without_an_end_is_a_lost_peer(world, attention, ask, ids):
    script = attention([ids("abc")], finish_reason=common_pb2.FINISH_REASON_STOP)

    async def cut(request, context):
        async for response in type(script).GenerateTokens(script, request, context):
            if response.WhichOneof("event") != "finished":
                yield response

    script.GenerateTokens = cut
    stub = await world.start(script)
    error, _ = await failure(stub.StreamGenerate(ask("a"), timeout=20))
    assert error.code == grpc.StatusCode.ABORTED


async def test_a_bug_in_attention_is_an_incident(world, attention, ask):
    stub = await world.start(attention([KeyError("swordfish")]))
    error, _ = await failure(stub.StreamGenerate(ask("a"), timeout=20))
    assert error.code == grpc.StatusCode.INTERNAL
    assert "swordfish" not in error.message
    assert error.metadata["incident"]


async def test_readiness_follows_the_backends(world, attention, ask, end_server):
    stub = await world.start(attention())
    reporting = asyncio.create_task(world.backends.report(world.gateway.set_serving))
    async with Channels() as channels:
        channel = channels.get(world.gateway.address)
        assert await check_async(channel) == Health.SERVING
        address = world.attention_servers[0].address
        await end_server(world.attention_servers[0])
        await _until(channel, Health.NOT_SERVING)
        error, _ = await failure(stub.StreamGenerate(ask("a"), timeout=5))
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "BACKEND_UNAVAILABLE")

        script = attention([[END_THINK, 65]])
        port = int(address.rsplit(":", 1)[1])
        server = RpcServer("attention", world.settings, port=port)
        server.add(
            "step3.v1.AttentionService",
            attention_pb2_grpc.add_AttentionServiceServicer_to_server,
            script,
        )
        await server.start()
        await server.set_serving(True)
        await _until(channel, Health.SERVING)
        assert (await stub.Generate(ask("a").request, timeout=5)).finish_reason
        await end_server(server)
    reporting.cancel()


async def _until(channel, wanted: Health) -> None:
    deadline = time.monotonic() + 6
    while await check_async(channel) != wanted:
        assert time.monotonic() < deadline, f"never {wanted}"
        await asyncio.sleep(0.05)
