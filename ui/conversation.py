"""One tab's conversation: questions, answers as they grow, and what of them the model is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from step3.v1 import chat_pb2

from ui.client import Content, Event, Finished, Reasoning, Started
from ui.problems import Problem


class State(Enum):
    WAITING = "waiting"
    THINKING = "thinking"
    ANSWERING = "answering"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(slots=True)
class Answer:
    """An answer folded from the gateway's events. Times are seconds of one monotonic clock."""

    asked_at: float
    state: State = State.WAITING
    reasoning: str = ""
    content: str = ""
    problem: Problem | None = None
    finish_reason: str = ""
    prompt_tokens: int = 0
    image_tokens: int = 0
    completion_tokens: int = 0
    tokens_per_second: float = 0.0
    time_to_first_token_s: float | None = None
    # The end of the thinking, or of an answer that never came to its content.
    thought_until: float | None = None

    def apply(self, event: Event, now: float) -> None:
        """Fold one event in."""
        match event:
            case Started():
                self.prompt_tokens = event.prompt_tokens
                self.image_tokens = event.image_tokens
            case Reasoning():
                self._token(event.completion_tokens, now)
                self.state = State.THINKING
                self.reasoning += event.text
            case Content():
                self._token(event.completion_tokens, now)
                self.state = State.ANSWERING
                self._end_thinking(now)
                self.content += event.text
            case Finished():
                self.state = State.DONE
                self._end_thinking(now)
                self.finish_reason = event.reason
                self.prompt_tokens = event.prompt_tokens
                self.image_tokens = event.image_tokens
                self.completion_tokens = event.completion_tokens
                self.time_to_first_token_s = event.time_to_first_token_s
                self.tokens_per_second = event.tokens_per_second

    def stop(self, now: float) -> None:
        """The person stopped it: what has arrived stays."""
        self.state = State.STOPPED
        self._end_thinking(now)
        if self.time_to_first_token_s is not None and self.completion_tokens > 1:
            decoding_s = now - self.asked_at - self.time_to_first_token_s
            self.tokens_per_second = (self.completion_tokens - 1) / max(decoding_s, 1e-3)

    def fail(self, problem: Problem, now: float) -> None:
        self.state, self.problem = State.FAILED, problem
        self._end_thinking(now)

    def thinking_s(self, now: float) -> float:
        return (now if self.thought_until is None else self.thought_until) - self.asked_at

    def _token(self, completion_tokens: int, now: float) -> None:
        if self.time_to_first_token_s is None:
            self.time_to_first_token_s = now - self.asked_at
        self.completion_tokens = completion_tokens

    def _end_thinking(self, now: float) -> None:
        if self.thought_until is None:
            self.thought_until = now


@dataclass(slots=True)
class Exchange:
    text: str
    images: tuple[Path, ...]
    answer: Answer


@dataclass(slots=True)
class Session:
    """What one browser tab holds. Gradio hands the same object to every handler of that tab."""

    exchanges: list[Exchange] = field(default_factory=list)
    answering: bool = False
    stop_requested: bool = False

    @property
    def busy(self) -> bool:
        """Whether an answer is coming or is about to."""
        return self.answering or self.awaited() is not None

    def ask(self, text: str, images: Sequence[Path], now: float) -> None:
        """Append a question whose answer is awaited."""
        self.exchanges.append(Exchange(text, tuple(images), Answer(now)))

    def ask_again(self, index: int, now: float, text: str | None = None) -> None:
        """Ask question `index` anew, with another text if one is given; later ones are dropped."""
        asked = self.exchanges[index]
        del self.exchanges[index:]
        self.ask(asked.text if text is None else text, asked.images, now)

    def awaited(self) -> Exchange | None:
        """The last exchange, if its answer has not begun."""
        last = self.exchanges[-1] if self.exchanges else None
        return last if last is not None and last.answer.state is State.WAITING else None


def to_messages(exchanges: Sequence[Exchange], system_prompt: str) -> list[chat_pb2.Message]:
    """The request for the last exchange's answer: images before their text, in upload order.

    Earlier exchanges without an answer (failed, or stopped while thinking) are left out, so that a
    picture the gateway refused does not spoil every later question. Reasoning is never sent back.

    Raises:
      OSError: an image file is gone.
    """
    messages = []
    if system_prompt.strip():
        messages.append(_message(chat_pb2.ROLE_SYSTEM, system_prompt))
    *earlier, current = exchanges
    for exchange in earlier:
        if exchange.answer.content:
            messages.append(_message(chat_pb2.ROLE_USER, exchange.text, exchange.images))
            messages.append(_message(chat_pb2.ROLE_ASSISTANT, exchange.answer.content))
    messages.append(_message(chat_pb2.ROLE_USER, current.text, current.images))
    return messages


def _message(
    role: chat_pb2.Role.ValueType, text: str, images: Sequence[Path] = ()
) -> chat_pb2.Message:
    parts = [chat_pb2.Part(image=chat_pb2.Image(data=image.read_bytes())) for image in images]
    if text:
        parts.append(chat_pb2.Part(text=text))
    return chat_pb2.Message(role=role, parts=parts)
