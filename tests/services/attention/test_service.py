"""The service over real gRPC, its FFN in the same process behind the inproc transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from step3.v1 import attention_pb2, attention_pb2_grpc, common_pb2, dataplane_pb2_grpc

from services.attention.instance import AttentionInstance
from services.ffn.service import FfnService
from shared.rpc import tensors
from shared.rpc.client import Channels, RpcError
from shared.rpc.health import Health, check_async
from shared.rpc.server import RpcServer
from shared.settings import AttentionSettings, Settings


@pytest.fixture
async def address(tmp_path, checkpoint, monkeypatch) -> AsyncIterator[str]:
    settings = Settings(
        home=tmp_path,
        model=checkpoint.folder,
        kernels="reference",
        transport="inproc",
        attention=AttentionSettings(num_blocks=64, max_running=4, max_waiting=2),
    )
    ffn = FfnService(settings, 0)
    ffn_server = RpcServer("ffn", settings, port=0, capabilities=ffn.capabilities)
    ffn_server.add(
        "step3.v1.DataPlaneService",
        dataplane_pb2_grpc.add_DataPlaneServiceServicer_to_server,
        ffn.servicer,
    )
    await ffn_server.start()
    await ffn.load()
    await ffn_server.set_serving(True)
    monkeypatch.setenv("STEP3_ADDRESS_FFN", ffn_server.address)

    instance = AttentionInstance(settings, 0, lambda serving: None)
    server = RpcServer("attention", settings, port=0, capabilities=instance.capabilities)
    server.add(
        "step3.v1.AttentionService",
        attention_pb2_grpc.add_AttentionServiceServicer_to_server,
        instance.servicer,
    )
    await server.start()
    await instance.load()
    await server.set_serving(True)
    yield server.address
    hurry = asyncio.Event()
    hurry.set()
    await server.drain(hurry)
    await asyncio.to_thread(instance.close)
    await ffn_server.drain(hurry)
    await asyncio.to_thread(ffn.close)


@pytest.fixture
async def stub(address) -> AsyncIterator[attention_pb2_grpc.AttentionServiceAsyncStub]:
    async with Channels() as channels:
        yield attention_pb2_grpc.AttentionServiceStub(channels.get(address))


def request(ids, **sampling):
    sampling.setdefault("max_tokens", 10)
    return attention_pb2.GenerateTokensRequest(
        request_id="r", token_ids=ids, sampling=common_pb2.SamplingParams(**sampling)
    )


async def collect(call):
    events = [event async for event in call]
    assert events[0].WhichOneof("event") == "accepted"
    assert events[-1].WhichOneof("event") == "finished"
    ids = [i for event in events for i in event.delta.token_ids]
    return ids, events[-1].finished


async def wait_for_load(stub, **wanted):
    for _ in range(200):
        load = await stub.GetLoad(attention_pb2.GetLoadRequest())
        if all(getattr(load, name) == value for name, value in wanted.items()):
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"the load is {load}, not {wanted}")


async def test_concurrent_streams_equal_the_model(stub, prompts, greedy):
    calls = [stub.GenerateTokens(request(prompt)) for prompt in prompts[:4]]
    results = await asyncio.gather(*(collect(call) for call in calls))
    for prompt, (ids, finished) in zip(prompts, results, strict=False):
        assert ids == greedy(prompt, 10)
        assert finished.finish_reason == common_pb2.FINISH_REASON_LENGTH
        assert finished.completion_tokens == 10


async def test_image_features_travel(stub, greedy, checkpoint):
    import torch

    features_FH = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    prompt = [4, *[checkpoint.config.image_token_id] * 3, 9]
    message = request(prompt)
    message.image_features.CopyFrom(tensors.pack(features_FH))
    ids, _ = await collect(stub.GenerateTokens(message))
    assert ids == greedy(prompt, 10, features_FH)


async def test_cached_tokens_are_told_with_the_first_delta_and_at_the_end(stub, prompts, greedy):
    first = await collect(stub.GenerateTokens(request(prompts[5])))
    assert first[1].cached_tokens == 0
    events = [event async for event in stub.GenerateTokens(request(prompts[5]))]
    assert events[1].delta.cached_tokens == events[-1].finished.cached_tokens == 80
    assert [i for event in events for i in event.delta.token_ids] == greedy(prompts[5], 10)
    load = await stub.GetLoad(attention_pb2.GetLoadRequest())
    assert (load.hit_tokens, load.preemptions, load.kv_blocks_used) == (80, 0, 0)
    assert load.kv_blocks_cached == (90 + 10 - 1) // 16


async def test_pictures_are_told_apart(stub, greedy, checkpoint):
    import torch

    prompt = [4, *[checkpoint.config.image_token_id] * 40, 9]
    noise = torch.Generator().manual_seed(2)
    for features_FH, cached in ((a := torch.randn(40, 64, generator=noise), 0), (-a, 0), (a, 32)):
        message = request(prompt)
        message.image_features.CopyFrom(tensors.pack(features_FH))
        ids, finished = await collect(stub.GenerateTokens(message))
        assert ids == greedy(prompt, len(ids), features_FH)
        assert finished.cached_tokens == cached


async def test_priority_gets_a_place_at_once(stub, prompts):
    calls = [stub.GenerateTokens(request(prompts[0], max_tokens=900)) for _ in range(5)]
    for call in calls:
        await call.read()
    await wait_for_load(stub, running=4, waiting=1)
    message = request(prompts[5])
    message.priority = 1
    ids, _ = await asyncio.wait_for(collect(stub.GenerateTokens(message)), 20)
    assert len(ids) == 10
    load = await stub.GetLoad(attention_pb2.GetLoadRequest())
    assert load.preemptions == 1
    for call in calls:
        call.cancel()


async def test_cancel_frees_the_cache(stub, prompts):
    call = stub.GenerateTokens(request(prompts[0], max_tokens=900))
    async for event in call:
        if event.WhichOneof("event") == "delta":
            break
    call.cancel()
    await wait_for_load(stub, running=0, kv_blocks_used=0)


async def test_a_full_queue_is_refused_with_a_time_to_retry(stub, prompts):
    calls = [stub.GenerateTokens(request(prompts[0], max_tokens=900)) for _ in range(6)]
    for call in calls:
        await call.read()
    await wait_for_load(stub, running=4, waiting=2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GenerateTokens(request(prompts[0])).read()
    error = RpcError.of(caught.value)
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.reason == "QUEUE_FULL"
    for call in calls:
        call.cancel()


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"token_ids": []}, "token_ids", "PROMPT_EMPTY"),
        ({"token_ids": [1, 512]}, "token_ids[1]", "INVALID_FIELD"),
        ({"token_ids": [1] * 1008}, "token_ids", "PROMPT_TOO_LONG"),
        ({"token_ids": [1, 501]}, "image_features", "INVALID_FIELD"),
        ({"temperature": -1.0}, "sampling.temperature", "INVALID_FIELD"),
        ({"temperature": float("nan")}, "sampling.temperature", "INVALID_FIELD"),
        ({"top_p": 0.0}, "sampling.top_p", "INVALID_FIELD"),
        ({"min_p": 2.0}, "sampling.min_p", "INVALID_FIELD"),
        ({"top_k": -1}, "sampling.top_k", "INVALID_FIELD"),
        ({"max_tokens": 0}, "sampling.max_tokens", "INVALID_FIELD"),
    ],
)
async def test_bad_input_names_the_field(stub, change, field, reason):
    message = request(change.pop("token_ids", [1, 2]), **change)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GenerateTokens(message).read()
    error = RpcError.of(caught.value)
    assert (error.code, error.reason, error.field) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        reason,
        field,
    )


async def test_says_what_it_is(address):
    from step3.v1 import info_pb2, info_pb2_grpc

    async with Channels() as channels:
        channel = channels.get(address)
        assert await check_async(channel, "step3.v1.AttentionService") is Health.SERVING
        info = await info_pb2_grpc.InfoServiceStub(channel).GetServerInfo(
            info_pb2.GetServerInfoRequest()
        )
    assert info.capabilities["kernels"] == "reference"
    assert info.capabilities["transport"] == "inproc"
    assert info.capabilities["shards"] == "1"
    for name in ("kv_blocks_cached", "hit_tokens", "preemptions"):
        assert info.capabilities[name] == "0"
