import asyncio
from contextlib import aclosing

import grpc
import pytest
from step3.v1 import chat_pb2, common_pb2

from shared.rpc.client import RpcError
from tests.ui.scripted_gateway import REASONING, ScriptedChat, serving
from ui.client import Content, Finished, GatewayClient, GatewayState, Reasoning, Started, to_event


def asking(text: str) -> list[chat_pb2.Message]:
    return [chat_pb2.Message(role=chat_pb2.ROLE_USER, parts=[chat_pb2.Part(text=text)])]


async def test_a_stream_becomes_plain_events_in_order():
    async with serving(ScriptedChat(word_s=0)) as address:
        client = GatewayClient(address, deadline_s=10)
        sampling = common_pb2.SamplingParams(temperature=0.5)
        events = [event async for event in client.stream(asking("hello"), sampling)]
        await client.close()
    assert events[0] == Started(prompt_tokens=13, image_tokens=0)
    reasoning = [event for event in events if isinstance(event, Reasoning)]
    content = [event for event in events if isinstance(event, Content)]
    assert events[1:-1] == reasoning + content
    assert "".join(event.text for event in reasoning).strip() == REASONING
    assert "".join(event.text for event in content).strip() == "You sent 0 images and asked: hello"
    assert [event.completion_tokens for event in reasoning + content] == list(
        range(1, len(reasoning + content) + 1)
    )
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.time_to_first_token_s) == ("stop", 0.084)


async def test_closing_the_stream_cancels_the_call():
    chat = ScriptedChat(word_s=0.02)
    async with serving(chat) as address:
        client = GatewayClient(address, deadline_s=10)
        events = client.stream(asking("a long answer"), common_pb2.SamplingParams())
        async with aclosing(events):
            await anext(events)
        async with asyncio.timeout(5):
            while not chat.cancelled:
                await asyncio.sleep(0.01)
        await client.close()


async def test_a_refusal_is_raised_with_its_reason_and_the_time_to_wait():
    async with serving(ScriptedChat(word_s=0)) as address:
        client = GatewayClient(address, deadline_s=10)
        with pytest.raises(RpcError) as raised:
            async for _ in client.stream(
                asking("error: RESOURCE_EXHAUSTED"), common_pb2.SamplingParams()
            ):
                pass
        await client.close()
    error = raised.value
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (error.reason, error.retry_after_s) == ("QUEUE_FULL", 5)


async def test_the_deadline_ends_an_answer_that_takes_too_long():
    async with serving(ScriptedChat(word_s=0.05)) as address:
        client = GatewayClient(address, deadline_s=0.3)
        with pytest.raises(RpcError) as raised:
            async for _ in client.stream(asking("long"), common_pb2.SamplingParams()):
                pass
        await client.close()
    assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_state_names_the_model_and_survives_the_gateway():
    async with serving(ScriptedChat(word_s=0)) as address:
        client = GatewayClient(address, deadline_s=10)
        assert await client.state() == GatewayState("ready", "step3-nano", 2048)
    assert await client.state(timeout_s=0.5) == GatewayState("away")
    await client.close()


def test_a_tool_call_is_no_event():
    delta = chat_pb2.Delta(tool_call=chat_pb2.ToolCall(name="f"))
    assert to_event(chat_pb2.StreamGenerateResponse(delta=delta)) is None
