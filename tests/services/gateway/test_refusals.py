"""Bad input: the code, the reason and the path of the field; nobody else notices."""

from __future__ import annotations

import grpc
import pytest
from step3.v1 import chat_pb2, common_pb2

from shared.errors import InvalidArgument
from shared.rpc.client import RpcError

INVALID = grpc.StatusCode.INVALID_ARGUMENT


async def refusal(stub, request: chat_pb2.StreamGenerateRequest) -> RpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.StreamGenerate(request, timeout=20):
            pass
    return RpcError.of(caught.value)


async def test_every_bad_request_names_its_field(world, attention, ask, png):
    script = attention([[508, 1]])
    stub = await world.start(script)
    good = png(96, 80)

    def sampling(**fields) -> chat_pb2.StreamGenerateRequest:
        return ask("a", sampling=common_pb2.SamplingParams(**fields))

    def messages(*given: chat_pb2.Message) -> chat_pb2.StreamGenerateRequest:
        return ask(messages=given)

    no_role = chat_pb2.Message(parts=[chat_pb2.Part(text="a")])
    no_part = chat_pb2.Message(role=chat_pb2.ROLE_USER, parts=[chat_pb2.Part()])
    said = chat_pb2.Message(role=chat_pb2.ROLE_ASSISTANT, parts=[chat_pb2.Part(text="a")])
    tool = chat_pb2.ToolDefinition(name="t", parameters_json="[1]")
    cases = [
        (ask("a", request_id="x" * 200), "INVALID_FIELD", "request_id"),
        (messages(), "INVALID_CONVERSATION", "messages"),
        (ask(""), "EMPTY_PROMPT", "messages[0].parts"),
        (messages(no_role), "INVALID_FIELD", "messages[0].role"),
        (messages(no_part), "INVALID_FIELD", "messages[0].parts[0]"),
        (messages(said), "INVALID_CONVERSATION", "messages[0].role"),
        (ask("a", tools=[tool]), "INVALID_CONVERSATION", "tools[0].parameters_json"),
        (sampling(temperature=-1), "INVALID_FIELD", "sampling.temperature"),
        (sampling(temperature=float("nan")), "INVALID_FIELD", "sampling.temperature"),
        (sampling(top_p=0), "INVALID_FIELD", "sampling.top_p"),
        (sampling(top_p=1.5), "INVALID_FIELD", "sampling.top_p"),
        (sampling(top_k=-1), "INVALID_FIELD", "sampling.top_k"),
        (sampling(min_p=2), "INVALID_FIELD", "sampling.min_p"),
        (sampling(max_tokens=0), "INVALID_FIELD", "sampling.max_tokens"),
        (sampling(stop=["a", ""]), "INVALID_FIELD", "sampling.stop[1]"),
        (sampling(stop=["a"] * 99), "INVALID_FIELD", "sampling.stop"),
        (ask("a", b""), "IMAGE_UNDECODABLE", "messages[0].parts[1].image"),
        (ask("a", good, b"no picture"), "IMAGE_UNDECODABLE", "messages[0].parts[2].image"),
        (ask("a", bytes(200_001)), "IMAGE_TOO_LARGE", "messages[0].parts[1].image"),
        (ask("a", png(1000, 1000)), "IMAGE_TOO_LARGE", "messages[0].parts[1].image"),
        (ask("a", good, good, good), "TOO_MANY_IMAGES", "messages"),
        (ask("a" * 3_000), "PROMPT_TOO_LONG", "messages"),
        (ask("a" * 10_000_000), "PROMPT_TOO_LONG", "messages"),
    ]
    for request, reason, field in cases:
        error = await refusal(stub, request)
        assert (error.code, error.reason, error.field) == (INVALID, reason, field)
        assert field in error.message
    assert not script.requests
    assert (await stub.Generate(ask("a", good).request, timeout=20)).finish_reason


async def test_too_long_prompt_says_how_long_it_is(world, attention, ask):
    stub = await world.start(attention())
    error = await refusal(stub, ask("a" * 3_000))
    assert error.metadata == {"prompt_tokens": "3021", "context_tokens": "2048"}
    assert "3021" in error.message


async def test_unknown_model(world, attention, ask):
    stub = await world.start(attention())
    error = await refusal(stub, ask("a", model="gpt"))
    assert error.code == grpc.StatusCode.NOT_FOUND
    assert (error.reason, error.field) == ("MODEL_NOT_FOUND", "model")
    assert "'tiny'" in error.message


async def test_refusal_by_attention_becomes_the_callers(world, attention, ask):
    wrong = InvalidArgument("token_ids: too long", reason="PROMPT_TOO_LONG", field="token_ids")
    stub = await world.start(attention([wrong], accepts=False))
    error = await refusal(stub, ask("a"))
    assert (error.code, error.reason, error.field) == (INVALID, "PROMPT_TOO_LONG", "messages")


async def test_one_request_too_many(world, attention, ask):
    script = attention([60.0])
    stub = await world.start(script)
    running = [stub.StreamGenerate(ask("a"), timeout=20) for _ in range(2)]
    for call in running:
        await call.read()
    error = await refusal(stub, ask("a"))
    assert error.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.reason == "TOO_MANY_REQUESTS"
    assert error.retry_after_s == 1.0
    for call in running:
        call.cancel()


async def test_running_request_id_is_taken(world, attention, ask):
    stub = await world.start(attention([60.0]))
    call = stub.StreamGenerate(ask("a", request_id="same"), timeout=20)
    await call.read()
    error = await refusal(stub, ask("a", request_id="same"))
    assert error.code == grpc.StatusCode.ALREADY_EXISTS
    call.cancel()
