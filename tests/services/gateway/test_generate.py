"""Answers: text, images, tools, stop texts, usage, finish reasons."""

from __future__ import annotations

import pytest
from step3.v1 import chat_pb2, common_pb2

END_THINK, EOT, IM_PATCH = 508, 505, 501


async def read(call) -> list[chat_pb2.StreamGenerateResponse]:
    return [response async for response in call]


def text_of(events: list[chat_pb2.StreamGenerateResponse], kind: str) -> str:
    return "".join(getattr(event.delta, kind) for event in events)


@pytest.fixture
def answer(ids):
    return [ids("hm"), [*ids("m\n"), END_THINK], ids("\nEight"), ids("y-five")]


async def test_text_answer_streams_and_is_counted(world, attention, answer, ask, ids):
    script = attention([*answer[:3], 0.05, answer[3]])
    stub = await world.start(script)
    events = await read(stub.StreamGenerate(ask("47 + 38?", request_id="r1"), timeout=10))

    started = events[0].started
    assert (started.request_id, started.model) == ("r1", "tiny")
    prompt = ids("<｜begin▁of▁sentence｜><|BOT|>user\n47 + 38?<|EOT|><|BOT|>assistant\n<think>\n")
    assert list(script.requests[0].token_ids) == prompt
    assert started.prompt_tokens == len(prompt)
    assert not script.requests[0].HasField("image_features")
    assert [event.WhichOneof("event") for event in events[1:-1]] == ["delta"] * len(events[1:-1])
    assert text_of(events, "reasoning") == "hmm"
    assert text_of(events, "content") == "Eighty-five"

    finished = events[-1].finished
    assert finished.finish_reason == common_pb2.FINISH_REASON_STOP
    assert finished.usage == common_pb2.Usage(
        prompt_tokens=len(prompt),
        completion_tokens=17,
        reasoning_tokens=5,
        cached_tokens=3,
    )
    assert events[-2].delta.completion_tokens == 17
    timings = finished.timings
    assert timings.queue_ms == 1.5
    assert 0 < timings.time_to_first_token_ms < timings.total_ms
    assert timings.total_ms >= 50
    assert 0 < timings.tokens_per_second < 15 / 0.05


async def test_whole_answer_is_the_folded_stream(world, attention, answer, ask):
    stub = await world.start(attention(answer))
    response = await stub.Generate(ask("hello").request, timeout=10)
    assert response.request_id
    assert (response.model, response.reasoning, response.content) == ("tiny", "hmm", "Eighty-five")
    assert response.finish_reason == common_pb2.FINISH_REASON_STOP
    assert response.usage.completion_tokens == 17


async def test_images_are_expanded_and_their_features_sent(world, attention, answer, ask, png):
    script = attention(answer)
    stub = await world.start(script)
    request = ask("before", png(96, 80), "between", png(200, 120))
    response = await stub.Generate(request.request, timeout=30)

    inner = script.requests[0]
    patches = sum(token == IM_PATCH for token in inner.token_ids)
    assert patches == 169 + (2 * 81 + 169)
    assert list(inner.image_features.shape) == [patches, 64]
    assert len(inner.image_features.data) == patches * 64 * 4
    assert response.usage.prompt_tokens == len(inner.token_ids)
    assert response.usage.image_tokens == 171 + 337


async def test_sampling_is_filled_and_clipped(world, attention, answer, ask):
    script = attention(answer)
    stub = await world.start(script)
    sampling = common_pb2.SamplingParams(top_k=4, max_tokens=10**9, seed=7, stop=["zz"])
    await stub.Generate(ask("a", sampling=sampling).request, timeout=10)
    await stub.Generate(ask("a").request, timeout=10)
    given, default = script.requests
    context = (await stub.ListModels(chat_pb2.ListModelsRequest())).models[0].context_tokens
    assert given.sampling.max_tokens == context - len(given.token_ids)
    assert (given.sampling.temperature, given.sampling.top_k, given.sampling.seed) == (0.5, 4, 7)
    assert not given.sampling.stop
    assert default.sampling.max_tokens == 64
    assert not default.sampling.HasField("seed")


async def test_priority_is_passed_on(world, attention, answer, ask):
    script = attention(answer)
    stub = await world.start(script)
    for request in (ask("a", priority=-2), ask("a")):
        await stub.Generate(request.request, timeout=10)
    assert [request.priority for request in script.requests] == [-2, 0]


async def test_stop_text_across_deltas_ends_the_inner_call(world, attention, ask, ids):
    script = attention([[*ids("t"), END_THINK], ids("one E"), ids("N"), ids("D two"), 60.0])
    stub = await world.start(script)
    sampling = common_pb2.SamplingParams(stop=["END"])
    events = await read(stub.StreamGenerate(ask("a", sampling=sampling), timeout=10))
    assert text_of(events, "content") == "one "
    assert events[-1].finished.finish_reason == common_pb2.FINISH_REASON_STOP
    assert events[-1].finished.usage.completion_tokens == 2 + 5 + 1 + 1
    assert events[-1].finished.usage.cached_tokens == 3
    await script.cancelled.wait()


async def test_stop_text_that_never_completes_is_given_out(world, attention, ask, ids):
    stub = await world.start(attention([[END_THINK, *ids("one EN")], [EOT]]))
    sampling = common_pb2.SamplingParams(stop=["END"])
    response = await stub.Generate(ask("a", sampling=sampling).request, timeout=10)
    assert response.content == "one EN"


async def test_tool_calls(world, attention, ask, ids):
    call = (
        "<｜tool_calls_begin｜><｜tool_call_begin｜>function<｜tool_sep｜>"
        '<steptml:invoke name="add"><steptml:parameter name="n">3</steptml:parameter>'
        "</steptml:invoke><｜tool_call_end｜><｜tool_calls_end｜>"
    )
    stub = await world.start(attention([[END_THINK, *ids("Let me see.")], ids(call)]))
    schema = '{"type": "object", "properties": {"n": {"type": "integer"}}}'
    tools = [chat_pb2.ToolDefinition(name="add", parameters_json=schema)]
    response = await stub.Generate(ask("a", tools=tools).request, timeout=10)
    assert response.content == "Let me see."
    assert response.finish_reason == common_pb2.FINISH_REASON_TOOL_CALLS
    [found] = response.tool_calls
    assert (found.name, found.arguments_json) == ("add", '{"n": 3}')
    assert found.id


async def test_length_is_passed_on(world, attention, ask, ids):
    script = attention([ids("thinking")], finish_reason=common_pb2.FINISH_REASON_LENGTH)
    stub = await world.start(script)
    response = await stub.Generate(ask("a").request, timeout=10)
    assert response.finish_reason == common_pb2.FINISH_REASON_LENGTH
    assert (response.reasoning, response.content) == ("thinking", "")
    assert response.usage.reasoning_tokens == 8


async def test_deltas_that_are_ready_together_are_one(world, attention, ask, ids):
    stub = await world.start(attention([ids(c) for c in "a long thought" * 20]))
    events = await read(stub.StreamGenerate(ask("a"), timeout=10))
    assert text_of(events, "reasoning") == "a long thought" * 20
    assert len(events) < 140


async def test_models_are_listed(world, attention):
    stub = await world.start(attention())
    [model] = (await stub.ListModels(chat_pb2.ListModelsRequest(), timeout=5)).models
    assert (model.name, model.accepts_images, model.max_images) == ("tiny", True, 2)
    assert model.context_tokens > 0
