"""The chat page: its components, and the handlers between them and one session."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components.chatbot import ExampleMessage

from shared.settings import SamplingDefaults
from ui.answering import fold_answer
from ui.client import GatewayClient
from ui.conversation import Session
from ui.examples import Example
from ui.problems import Problem
from ui.rendering import Message, exchange_at, render

MAX_ANSWERS = 64

PLACEHOLDER = """
<div class="welcome">
  <h2>Ask with words or pictures</h2>
  <p>Small sums with their steps, numbers in pictures, shapes, colours and simple charts.</p>
</div>
"""

HINT = """
<p><span class="keys"><kbd>Enter</kbd> sends, <kbd>Shift+Enter</kbd> begins a line,
<kbd>Esc</kbd> stops. </span>A small model can be wrong: check what matters.</p>
"""

NOT_SENT = Problem(
    "The question was not sent",
    "A value in the settings is out of its range, or too many people are asking at once.",
    "Look at the settings, then press Retry.",
)


class ChatPage:
    """Built inside a gr.Blocks context."""

    def __init__(
        self, client: GatewayClient, sampling: SamplingDefaults, examples: list[Example]
    ) -> None:
        self.client = client
        self.examples = examples
        self.session = gr.State(Session())
        self.chatbot = gr.Chatbot(
            show_label=False,
            container=False,
            height="100%",
            layout="bubble",
            buttons=["copy"],
            feedback_options=None,
            editable="user",
            allow_tags=False,
            placeholder=PLACEHOLDER,
            examples=[_card(example) for example in examples],
            elem_id="conversation",
        )
        self.box = gr.MultimodalTextbox(
            show_label=False,
            placeholder="Ask Step3",
            file_types=["image"],
            file_count="multiple",
            sources=["upload"],
            submit_btn=True,
            stop_btn=False,
            autofocus=True,
            max_lines=8,
            max_plain_text_length=100_000,
            elem_id="composer",
            html_attributes=gr.InputHTMLAttributes(spellcheck=False),
        )
        gr.HTML(HINT, elem_id="hint")
        with gr.Sidebar(
            label="Settings", position="right", open=False, width=320, elem_id="settings"
        ):
            gr.HTML("<h2>Settings</h2>")
            self.controls = _controls(sampling)
        self._connect()

    def _connect(self) -> None:
        starts = [
            self.box.submit(self.ask, [self.session, self.box], [self.box, self.chatbot]),
            self.chatbot.example_select(self.ask_example, self.session, [self.box, self.chatbot]),
            self.chatbot.retry(self.retry, self.session, [self.box, self.chatbot]),
            self.chatbot.edit(self.edit, self.session, [self.box, self.chatbot]),
        ]
        for start in starts:
            start.then(
                self.answer,
                [self.session, *self.controls],
                self.chatbot,
                show_progress="hidden",
                concurrency_limit=MAX_ANSWERS,
                concurrency_id="answers",
            ).then(self.rest, self.session, [self.box, self.chatbot], show_progress="hidden")
        self.box.stop(self.stop, self.session, None, queue=False)
        self.chatbot.undo(self.undo, self.session, [self.box, self.chatbot])

    def ask(self, session: Session, message: dict[str, Any]) -> tuple[Any, Any]:
        """Take the box's text and images as the next question."""
        text, images = message["text"].strip(), [Path(path) for path in message["files"]]
        if session.busy or not (text or images):
            return gr.skip(), gr.skip()
        session.ask(text, images, time.monotonic())
        return _answering_box(value={"text": "", "files": []}), _drawn(session)

    def ask_example(self, session: Session, chosen: gr.SelectData) -> tuple[Any, Any]:
        if session.busy:
            return gr.skip(), gr.skip()
        # The browser's copy of the example is not trusted with paths: only its number counts.
        example = self.examples[chosen.index]
        images = [example.image] if example.image else []
        session.ask(example.text, images, time.monotonic())
        return _answering_box(), _drawn(session)

    def retry(self, session: Session, chosen: gr.RetryData) -> tuple[Any, Any]:
        if session.busy:
            return gr.skip(), gr.skip()
        session.ask_again(_exchange_of(session, chosen.index), time.monotonic())
        return _answering_box(), _drawn(session)

    def edit(self, session: Session, chosen: gr.EditData) -> tuple[Any, Any]:
        """Resend an edited question with its images; everything after it is dropped."""
        text = str(chosen.value).strip()
        if session.busy or not text:
            return gr.skip(), _drawn(session)
        session.ask_again(_exchange_of(session, chosen.index), time.monotonic(), text)
        return _answering_box(), _drawn(session)

    def undo(self, session: Session, chosen: gr.UndoData) -> tuple[Any, Any]:
        """Take the last question back into the box."""
        if session.busy:
            return gr.skip(), gr.skip()
        index = _exchange_of(session, chosen.index)
        taken = session.exchanges[index]
        del session.exchanges[index:]
        value: dict[str, str | list[Any]] = {
            "text": taken.text,
            "files": [str(path) for path in taken.images],
        }
        return gr.MultimodalTextbox(value=value), _drawn(session)

    def clear(self, session: Session) -> list[Message]:
        """Begin a new chat; an answer that is still coming is stopped."""
        session.stop_requested = True
        session.exchanges.clear()
        return []

    def stop(self, session: Session) -> None:
        session.stop_requested = True

    def rest(self, session: Session) -> tuple[Any, Any]:
        """The box between two answers. A question that `answer` never got has failed."""
        if session.answering:
            return gr.skip(), gr.skip()
        unsent = session.awaited()
        if unsent is not None:
            unsent.answer.fail(NOT_SENT, time.monotonic())
        return gr.MultimodalTextbox(submit_btn=True, stop_btn=False), _drawn(session)

    async def answer(self, session: Session, *controls: Any) -> AsyncIterator[list[Message]]:
        """Stream the awaited answer, if there is one, into the conversation."""
        exchange = session.awaited()
        if exchange is None or session.answering:
            return
        session.answering, session.stop_requested = True, False
        try:
            async with aclosing(fold_answer(self.client, session, exchange, controls)) as changes:
                async for _ in changes:
                    yield _drawn(session)
        finally:
            session.answering = False


def _controls(sampling: SamplingDefaults) -> list[gr.components.Component]:
    """The panel, in the order in which `answer` takes its values."""
    return [
        gr.Textbox(label="System prompt", lines=3, placeholder="None"),
        gr.Slider(0, 2, sampling.temperature, step=0.05, label="Temperature", info="0 is greedy"),
        gr.Slider(0.05, 1, sampling.top_p, step=0.05, label="Top-p"),
        gr.Number(sampling.top_k, label="Top-k", info="0 keeps all", precision=0, minimum=0),
        gr.Slider(0, 1, sampling.min_p, step=0.01, label="Min-p"),
        gr.Number(sampling.max_tokens, label="Max tokens", precision=0, minimum=1),
        # A text: an empty gr.Number shows, and sends, a zero.
        gr.Textbox(label="Seed", placeholder="A new one each time", max_lines=1),
    ]


def _card(example: Example) -> ExampleMessage:
    if example.image is None:
        return {"text": example.text}
    return {"text": example.text, "icon": str(example.image), "files": [str(example.image)]}


def _answering_box(**changes: Any) -> gr.MultimodalTextbox:
    return gr.MultimodalTextbox(submit_btn=False, stop_btn=True, **changes)


def _drawn(session: Session) -> list[Message]:
    return render(session.exchanges, time.monotonic())


def _exchange_of(session: Session, index: int | tuple[int, int]) -> int:
    message_index = index if isinstance(index, int) else index[0]
    return exchange_at(session.exchanges, message_index, time.monotonic())
