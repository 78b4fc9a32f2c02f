"""From generated tokens to the deltas of an answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from step3.v1 import chat_pb2

from services.gateway.stop import StopScanner
from shared.text.conversation import Tool
from shared.text.parser import ContentDelta, Event, OutputParser, ReasoningDelta, ToolCallEvent
from shared.text.tokenizer import Tokenizer


class AnswerStream:
    """Parses tokens, ends at a stop text, counts.

    Stop texts are sought in the reasoning and in the content, each by itself.

    Attributes:
      stopped: a stop text was met; nothing more is to be pushed.
      completion_tokens: pushed so far.
      reasoning_tokens: of them, those up to and with `</think>`.
      has_calls: whether a tool call was given out.
    """

    def __init__(self, tokenizer: Tokenizer, tools: Sequence[Tool], stop: Sequence[str]) -> None:
        self._parser = OutputParser(tokenizer, tools)
        self._end_think = tokenizer.special.end_think
        self._scanner = StopScanner(stop)
        self._kind: type[ReasoningDelta] | type[ContentDelta] = ReasoningDelta
        self._thinking = True
        self._deltas: list[chat_pb2.Delta] = []
        self.completion_tokens = 0
        self.reasoning_tokens = 0
        self.has_calls = False

    @property
    def stopped(self) -> bool:
        return self._scanner.stopped

    def push(self, token_ids: Iterable[int]) -> None:
        """Add tokens; those after a stop text are not looked at."""
        for token_id in token_ids:
            if self.stopped:
                return
            self.completion_tokens += 1
            self.reasoning_tokens += self._thinking
            self._thinking = self._thinking and token_id != self._end_think
            self._add(self._parser.push([token_id]))

    def finish(self) -> None:
        """Give out what was held back, after the last token."""
        if not self.stopped:
            self._add(self._parser.finish())
        self._emit(self._scanner.flush())

    def take(self) -> list[chat_pb2.Delta]:
        """The deltas since the last call; neighbours of a kind are one."""
        deltas, self._deltas = self._deltas, []
        return deltas

    def _add(self, events: Iterable[Event]) -> None:
        for event in events:
            if self.stopped:
                return
            if isinstance(event, ToolCallEvent):
                self._emit(self._scanner.flush())
                self.has_calls = True
                call = chat_pb2.ToolCall(
                    id=event.id, name=event.name, arguments_json=event.arguments_json
                )
                self._append(chat_pb2.Delta(tool_call=call))
                continue
            if type(event) is not self._kind:
                self._emit(self._scanner.flush())
                self._kind = type(event)
            self._emit(self._scanner.push(event.text))

    def _emit(self, text: str) -> None:
        if not text:
            return
        field = "reasoning" if self._kind is ReasoningDelta else "content"
        last = self._deltas[-1] if self._deltas else chat_pb2.Delta()
        if last.WhichOneof("delta") == field:
            text = getattr(self._deltas.pop(), field) + text
        delta = chat_pb2.Delta()
        setattr(delta, field, text)
        self._append(delta)

    def _append(self, delta: chat_pb2.Delta) -> None:
        delta.completion_tokens = self.completion_tokens
        self._deltas.append(delta)
