from pathlib import Path

import pytest
from step3.v1 import chat_pb2

from ui.client import Content, Finished, Reasoning, Started
from ui.conversation import Answer, Session, State, to_messages
from ui.problems import Problem

FINISHED = Finished(
    reason="stop",
    prompt_tokens=20,
    image_tokens=8,
    completion_tokens=4,
    time_to_first_token_s=0.1,
    tokens_per_second=30.0,
)


def answered(session: Session, text: str, content: str, images: list[Path] | None = None) -> None:
    session.ask(text, images or [], now=0)
    answer = session.exchanges[-1].answer
    answer.apply(Reasoning("thought ", 1), 1)
    answer.apply(Content(content, 2), 2)
    answer.apply(FINISHED, 3)


def test_an_answer_folds_from_its_events():
    answer = Answer(asked_at=10.0)
    assert answer.state is State.WAITING
    answer.apply(Started(prompt_tokens=20, image_tokens=8), 10.1)
    answer.apply(Reasoning("7 + 8 ", 1), 10.5)
    answer.apply(Reasoning("= 15", 2), 11.0)
    assert (answer.state, answer.reasoning) == (State.THINKING, "7 + 8 = 15")
    assert answer.thinking_s(now=12.0) == 2.0
    answer.apply(Content("85", 3), 13.0)
    answer.apply(Content(".", 4), 14.0)
    assert (answer.state, answer.content) == (State.ANSWERING, "85.")
    answer.apply(FINISHED, 15.0)
    assert answer.state is State.DONE
    # Thinking ended with the first content and does not grow after it.
    assert answer.thinking_s(now=99.0) == 3.0
    assert (answer.time_to_first_token_s, answer.tokens_per_second) == (0.1, 30.0)


def test_a_stopped_answer_keeps_what_came_and_measures_it():
    answer = Answer(asked_at=0.0)
    answer.apply(Reasoning("a", 1), 1.0)
    answer.apply(Content("b", 11), 2.0)
    answer.stop(now=3.0)
    assert (answer.state, answer.reasoning, answer.content) == (State.STOPPED, "a", "b")
    assert (answer.time_to_first_token_s, answer.tokens_per_second) == (1.0, 5.0)


def test_the_request_holds_images_in_order_before_their_text(tmp_path: Path):
    paths = [tmp_path / name for name in ("b.png", "a.png", "c.png")]
    for path in paths:
        path.write_bytes(path.name.encode())
    session = Session()
    session.ask("Which?", paths, now=0)
    (message,) = to_messages(session.exchanges, system_prompt=" ")
    assert message.role == chat_pb2.ROLE_USER
    assert [part.image.data for part in message.parts[:3]] == [b"b.png", b"a.png", b"c.png"]
    assert [part.WhichOneof("part") for part in message.parts] == ["image"] * 3 + ["text"]


def test_history_is_sent_without_reasoning_and_after_the_system_prompt():
    session = Session()
    answered(session, "one", "1")
    session.ask("two", [], now=0)
    messages = to_messages(session.exchanges, "Be brief.")
    assert [message.role for message in messages] == [
        chat_pb2.ROLE_SYSTEM,
        chat_pb2.ROLE_USER,
        chat_pb2.ROLE_ASSISTANT,
        chat_pb2.ROLE_USER,
    ]
    texts = ["".join(part.text for part in message.parts) for message in messages]
    assert texts == ["Be brief.", "one", "1", "two"]


def test_questions_without_an_answer_are_not_sent_again(tmp_path: Path):
    broken = tmp_path / "gone.png"
    session = Session()
    session.ask("bad picture", [broken], now=0)
    session.exchanges[-1].answer.fail(Problem("t", "d", "a"), now=1)
    session.ask("stopped while thinking", [], now=2)
    session.exchanges[-1].answer.apply(Reasoning("hm", 1), 3)
    session.exchanges[-1].answer.stop(now=4)
    session.ask("now", [], now=5)
    (message,) = to_messages(session.exchanges, "")
    assert message.parts[0].text == "now"


def test_an_image_that_is_gone_is_an_error_of_its_own_question(tmp_path: Path):
    session = Session()
    session.ask("look", [tmp_path / "gone.png"], now=0)
    with pytest.raises(OSError):
        to_messages(session.exchanges, "")


def test_editing_keeps_the_images_and_drops_what_came_after():
    images = [Path("x.png")]
    session = Session()
    answered(session, "one", "1")
    answered(session, "two", "2", images)
    answered(session, "three", "3")
    session.ask_again(1, now=9, text="two!")
    assert [(e.text, e.images) for e in session.exchanges] == [
        ("one", ()),
        ("two!", tuple(images)),
    ]
    assert session.awaited() is session.exchanges[1]
    assert session.busy


def test_retrying_asks_the_same_text_again():
    session = Session()
    answered(session, "one", "1")
    session.ask_again(0, now=9)
    assert [(e.text, e.answer.state) for e in session.exchanges] == [("one", State.WAITING)]
