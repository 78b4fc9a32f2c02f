from pathlib import Path

import pytest

from ui.client import Content, Finished, GatewayState, Reasoning, Started
from ui.conversation import Answer, Session
from ui.problems import Problem
from ui.rendering import exchange_at, header, render, usage_line


def text_of(message: dict) -> str:
    return message["content"][0]["text"]


def finished(reason: str, image_tokens: int = 0) -> Answer:
    answer = Answer(asked_at=0.0)
    answer.apply(Content("85", 3), 1.0)
    answer.apply(Finished(reason, 1234, image_tokens, 56, 0.25, 98.7), 2.0)
    return answer


def test_thinking_is_open_while_it_lasts_and_folded_with_its_time_after():
    session = Session()
    session.ask("47 + 38", [Path("a.png")], now=0.0)
    answer = session.exchanges[0].answer
    answer.apply(Reasoning("carry 1", 1), 0.5)
    image, question, thought = render(session.exchanges, now=0.6)
    assert image["content"]["path"] == "a.png"
    assert (question["role"], text_of(question)) == ("user", "47 + 38")
    assert thought["metadata"] == {"title": "Thinking...", "status": "pending"}
    answer.apply(Content("85", 2), 1.2)
    *_, thought, content = render(session.exchanges, now=5.0)
    assert thought["metadata"] == {"title": "Thought for 1.2 s", "status": "done"}
    assert (text_of(thought), text_of(content)) == ("carry 1", "85")


def test_an_answer_that_did_not_think_has_no_thought():
    session = Session()
    session.ask("hi", [], now=0.0)
    session.exchanges[0].answer.apply(Content("hello", 1), 1.0)
    assert [text_of(message) for message in render(session.exchanges, now=2.0)] == ["hi", "hello"]


def test_indentation_survives():
    session = Session()
    session.ask("    indented", [], now=0.0)
    assert text_of(render(session.exchanges, now=0.0)[0]) == "    indented"


@pytest.mark.parametrize(
    ("reason", "mark"),
    [
        ("stop", None),
        ("length", "<b>cut off at the token limit</b>"),
        ("aborted", "<b>aborted</b>"),
    ],
)
def test_the_usage_line_names_any_reason_but_stop(reason: str, mark: str | None):
    line = usage_line(finished(reason))
    assert ("<b>" in line) == (mark is not None)
    assert mark is None or mark in line
    for fact in ("1,234 tokens in", "56 out", "first token 0.25 s", "99 tokens/s"):
        assert fact in line


def test_the_usage_line_counts_image_tokens():
    assert "1,234 (36 image) tokens in" in usage_line(finished("stop", image_tokens=36))


def test_a_stopped_answer_is_marked_and_a_running_one_has_no_line_yet():
    session = Session()
    session.ask("hi", [], now=0.0)
    answer = session.exchanges[0].answer
    answer.apply(Started(5, 0), 0.1)
    answer.apply(Content("he", 1), 1.0)
    assert text_of(render(session.exchanges, now=1.0)[-1]) == "he"
    answer.stop(now=2.0)
    assert "<b>stopped</b>" in text_of(render(session.exchanges, now=2.0)[-1])


def test_a_problem_is_shown_as_text_never_as_markup():
    session = Session()
    session.ask("hi", [], now=0.0)
    session.exchanges[0].answer.fail(Problem("T", "<script>x</script>", "A & B"), now=1.0)
    card = text_of(render(session.exchanges, now=1.0)[-1])
    assert "&lt;script&gt;" in card
    assert "A &amp; B" in card
    assert "<script>" not in card


def test_each_message_leads_back_to_its_exchange():
    session = Session()
    session.ask("one", [Path("a.png"), Path("b.png")], now=0.0)
    session.exchanges[0].answer.apply(Content("1", 1), 1.0)
    session.ask("two", [], now=2.0)
    counts = [exchange_at(session.exchanges, index, now=3.0) for index in range(6)]
    assert counts == [0, 0, 0, 0, 1, 1]
    with pytest.raises(ValueError, match="reload"):
        exchange_at(session.exchanges, 6, now=3.0)


def test_the_header_tells_the_gateway_states_apart():
    ready = header(GatewayState("ready", "step3<nano>", 2048))
    assert "step3&lt;nano&gt;" in ready
    assert "2,048 tokens" in ready
    assert 'class="dot ready"' in ready
    assert "starting" in header(GatewayState("starting"))
    assert "cannot be reached" in header(GatewayState("away"))
