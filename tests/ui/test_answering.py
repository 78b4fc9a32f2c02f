import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.ui.scripted_gateway import ScriptedChat, serving
from ui.answering import batches, fold_answer, sampling_params
from ui.client import Content, Event, GatewayClient
from ui.conversation import Session, State


def word(number: int) -> Content:
    return Content(f"w{number}", number)


async def test_events_are_gathered_by_period_and_none_is_lost():
    async def events() -> AsyncIterator[Event]:
        for number in range(30):
            yield word(number)
            await asyncio.sleep(0.005)

    gathered = [batch async for batch in batches(events(), period_s=0.05)]
    assert [event for batch in gathered for event in batch] == [word(n) for n in range(30)]
    assert len(gathered) < 15


async def test_what_arrives_while_the_page_is_drawn_is_not_lost():
    async def events() -> AsyncIterator[Event]:
        for number in range(5):
            await asyncio.sleep(0.02)
            yield word(number)

    seen: list[Event] = []
    async for batch in batches(events(), period_s=0.01):
        seen += batch
        await asyncio.sleep(0.3)
    assert seen == [word(number) for number in range(5)]


async def test_silence_still_yields_so_that_a_closed_tab_is_noticed():
    async def events() -> AsyncIterator[Event]:
        await asyncio.sleep(0.2)
        yield word(0)

    gathered = [batch async for batch in batches(events(), period_s=0.02)]
    assert gathered[0] == []
    assert gathered[-1] == [word(0)]


async def test_an_error_comes_after_the_events_before_it():
    async def events() -> AsyncIterator[Event]:
        yield word(0)
        raise RuntimeError("lost")

    seen: list[Event] = []
    with pytest.raises(RuntimeError, match="lost"):
        async for batch in batches(events(), period_s=0.01):
            seen += batch
    assert seen == [word(0)]


async def test_leaving_early_closes_the_events():
    closed = asyncio.Event()

    async def events() -> AsyncIterator[Event]:
        try:
            while True:
                yield word(0)
                await asyncio.sleep(0.001)
        finally:
            closed.set()

    stream = batches(events(), period_s=0.01)
    await anext(stream)
    await stream.aclose()
    await asyncio.wait_for(closed.wait(), 1)


def test_emptied_settings_are_left_to_the_server():
    params = sampling_params(0.7, None, 40, 0.05, None, " ")
    assert params.temperature == pytest.approx(0.7)
    assert params.top_k == 40
    for field in ("top_p", "max_tokens", "seed"):
        assert not params.HasField(field)
    # Zero is a value, not an absence.
    zero = sampling_params(0, 1, 0, 0, 16, "0")
    assert zero.HasField("temperature")
    assert zero.HasField("seed")


@pytest.mark.parametrize("seed", ["x", "1.5", str(2**63), "--1", "²"])
def test_a_seed_that_is_no_whole_number_is_refused(seed: str):
    with pytest.raises(ValueError, match="whole number"):
        sampling_params(0, 1, 0, 0, 16, seed)


async def ask(text: str, *, word_s: float = 0, stop_at: str = "", seed: str = "") -> Session:
    """A session after one answer from the scripted gateway."""
    session = Session()
    session.ask(text, [], now=0)
    async with serving(ScriptedChat(word_s)) as address:
        client = GatewayClient(address, deadline_s=10)
        controls = ("", 0, 1, 0, 0, 64, seed)
        async for _ in fold_answer(client, session, session.exchanges[0], controls):
            if stop_at and stop_at in session.exchanges[0].answer.content:
                session.stop_requested = True
        await client.close()
    return session


async def test_an_answer_is_folded_to_its_end():
    answer = (await ask("hello")).exchanges[0].answer
    assert (answer.state, answer.finish_reason) == (State.DONE, "stop")
    assert answer.content.strip() == "You sent 0 images and asked: hello"


async def test_stopping_keeps_what_came():
    answer = (await ask("a long answer", word_s=0.005, stop_at="word3")).exchanges[0].answer
    assert answer.state is State.STOPPED
    assert "word3" in answer.content
    assert "word600" not in answer.content


@pytest.mark.parametrize(
    ("text", "seed", "title"),
    [
        ("error: RESOURCE_EXHAUSTED", "", "Too many requests at once"),
        ("hello", "lucky", "A setting cannot be used"),
    ],
)
async def test_a_failure_is_told_in_the_answer(text: str, seed: str, title: str):
    answer = (await ask(text, seed=seed)).exchanges[0].answer
    assert answer.state is State.FAILED
    assert answer.problem is not None
    assert answer.problem.title == title
