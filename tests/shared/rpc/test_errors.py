"""What a failing call looks like to its client."""

from __future__ import annotations

import logging

import grpc
import pytest
from step3.v1 import attention_pb2

from shared.errors import DeadlineExceeded
from shared.rpc.client import RpcError, inner_deadline


async def failure(call) -> RpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return RpcError.of(caught.value)


async def test_bad_field_arrives_with_all_its_details(server, stub):
    await server.set_serving(True)
    error = await failure(
        stub.GenerateTokens(attention_pb2.GenerateTokensRequest(request_id="field"), timeout=5)
    )
    assert error.code == grpc.StatusCode.INVALID_ARGUMENT
    assert error.reason == "PROMPT_EMPTY"
    assert error.message == "token_ids is empty: send a prompt"
    assert error.field == "token_ids"
    assert error.metadata == {"tokens": "0"}
    assert error.retry_after_s is None


async def test_retry_delay_arrives(server, stub):
    await server.set_serving(True)
    error = await failure(
        stub.GenerateTokens(attention_pb2.GenerateTokensRequest(request_id="full"), timeout=5)
    )
    assert error.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.retry_after_s == 1.5
    assert error.field is None


async def test_unexpected_exception_hides_its_text_and_is_logged(server, stub, caplog):
    await server.set_serving(True)
    with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetLoad(attention_pb2.GetLoadRequest(), timeout=5)
    error = RpcError.of(caught.value)
    assert error.code == grpc.StatusCode.INTERNAL
    assert "swordfish" not in str(caught.value.debug_error_string()) + error.message
    assert error.metadata["incident"] in error.message
    assert error.metadata["incident"] in caplog.text
    assert "swordfish" in caplog.text


async def test_unexpected_exception_within_a_stream(server, stub):
    await server.set_serving(True)
    error = await failure(
        stub.GenerateTokens(attention_pb2.GenerateTokensRequest(request_id="bug"), timeout=5)
    )
    assert error.code == grpc.StatusCode.INTERNAL
    assert "swordfish" not in error.message


async def test_calls_before_the_service_is_ready_are_told_to_retry(server, stub):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetLoad(attention_pb2.GetLoadRequest(), timeout=5)
    error = RpcError.of(caught.value)
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "STARTING")
    assert error.retry_after_s is not None


async def test_connection_failure_has_the_code_as_its_reason(stub, server, channels):
    from step3.v1 import attention_pb2_grpc

    lost = attention_pb2_grpc.AttentionServiceStub(channels.get("127.0.0.1:1"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await lost.GetLoad(attention_pb2.GetLoadRequest(), timeout=5)
    error = RpcError.of(caught.value)
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")


class _Context:
    def __init__(self, remaining: float | None) -> None:
        self._remaining = remaining

    def time_remaining(self) -> float | None:
        return self._remaining


def test_inner_deadline_lies_within_the_outer_one():
    assert 0.9 < inner_deadline(_Context(1.0), 300) < 1.0
    assert 299 < inner_deadline(_Context(None), 300) < 300
    with pytest.raises(DeadlineExceeded):
        inner_deadline(_Context(0.01), 300)
