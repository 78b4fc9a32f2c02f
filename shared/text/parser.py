"""One state machine from generated tokens to reasoning, content and tool calls.

    reasoning --</think>--> content --calls begin--> block --call begin--> call
                               ^----- calls end ------/  ^------ call end ---/

The prompt has opened `<think>`, so output begins in reasoning; without `</think>` all of it is
reasoning. What comes out does not depend on how the output is cut into pushes: joined deltas and
the calls are the same for one push of everything and for one push a token. So that this holds, a
state may hold text back, but never decides by what has not come yet.

Whitespace: the newline on each side of `</think>` belongs to the template. Of an answer with calls,
whitespace at the end, and between calls and a first word after them, is dropped.

A call is given out once it is closed. A block in which no call can be read is content, as written;
in any other block, what is no call is dropped.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from shared.text.conversation import Tool, ToolCall
from shared.text.markers import Marker, MarkerScanner, marker_ids
from shared.text.steptml import CALL_TYPE, parse_invoke
from shared.text.tokenizer import StreamDecoder, Tokenizer


@dataclass(frozen=True)
class ReasoningDelta:
    text: str


@dataclass(frozen=True)
class ContentDelta:
    text: str


@dataclass(frozen=True)
class ToolCallEvent:
    """A whole call; `arguments_json` is a JSON object, `{}` without arguments."""

    id: str
    name: str
    arguments_json: str


Event = ReasoningDelta | ContentDelta | ToolCallEvent


@dataclass(frozen=True)
class Output:
    """All events of an answer, folded."""

    reasoning: str
    content: str
    tool_calls: tuple[ToolCall, ...]


class _State(Enum):
    REASONING = auto()
    CONTENT = auto()
    BLOCK = auto()
    CALL = auto()


class TextParser:
    """The state machine over text; marks come inside the text or, as tokens, by `push_marker`."""

    def __init__(
        self, tools: Sequence[Tool] = (), text_markers: Collection[Marker] = tuple(Marker)
    ) -> None:
        """Of `text_markers`, the text is a mark; the text of others is ordinary."""
        self._schemas = {tool.name: json.loads(tool.parameters_json) for tool in tools}
        self._scanner = MarkerScanner(text_markers)
        self._state = _State.REASONING
        self._events: list[Event] = []
        # Whitespace that is given out only when something follows it.
        self._held = ""
        self._after_think = False
        self._has_content = False
        self._has_calls = False
        self._block = ""
        self._block_has_calls = False
        self._call = ""

    def push_text(self, text: str) -> list[Event]:
        for piece in self._scanner.push(text):
            if isinstance(piece, Marker):
                self._mark(piece)
            else:
                self._text(piece)
        return self._take()

    def push_marker(self, marker: Marker) -> list[Event]:
        self._text(self._scanner.flush())
        self._mark(marker)
        return self._take()

    def finish(self) -> list[Event]:
        """What was held back; to be called once, after the last push."""
        self._text(self._scanner.flush())
        if self._state is _State.REASONING:
            self._emit(ReasoningDelta(self._held))
            return self._take()
        if self._state in (_State.BLOCK, _State.CALL):
            self._close_block()
        if not self._has_calls:
            self._emit(ContentDelta(self._held))
        return self._take()

    def _mark(self, marker: Marker) -> None:
        match self._state, marker:
            case _State.REASONING, Marker.END_THINK:
                self._held = ""
                self._after_think = True
                self._state = _State.CONTENT
            case _State.CONTENT, Marker.TOOL_CALLS_BEGIN:
                self._block, self._block_has_calls = marker.value, False
                self._state = _State.BLOCK
            case ((_State.BLOCK | _State.CALL), Marker.TOOL_CALL_BEGIN):
                self._block += marker.value
                self._call = ""
                self._state = _State.CALL
            case _State.CALL, Marker.TOOL_CALL_END:
                self._block += marker.value
                self._close_call()
                self._state = _State.BLOCK
            case ((_State.BLOCK | _State.CALL), Marker.TOOL_CALLS_END):
                self._block += marker.value
                self._close_block()
                self._state = _State.CONTENT
            case _:
                self._text(marker.value)

    def _text(self, text: str) -> None:
        match self._state:
            case _State.REASONING:
                text = self._held + text
                self._held = "\n" if text.endswith("\n") else ""
                self._emit(ReasoningDelta(text.removesuffix("\n")))
            case _State.CONTENT:
                self._content(text)
            case _State.BLOCK:
                self._block += text
            case _State.CALL:
                self._block += text
                self._call += text

    def _content(self, text: str) -> None:
        if not text:
            return
        if self._after_think:
            text = text.removeprefix("\n")
            self._after_think = False
        text = self._held + text
        if self._has_calls and not self._has_content:
            text = text.lstrip()
        body = text.rstrip()
        self._held = text[len(body) :]
        self._has_content = self._has_content or bool(body)
        self._emit(ContentDelta(body))

    def _close_call(self) -> None:
        type_, separator, body = self._call.partition(Marker.TOOL_SEP.value)
        call = parse_invoke(body, self._schemas)
        if call is None or not separator or type_ != CALL_TYPE:
            return
        self._has_calls = self._block_has_calls = True
        self._emit(ToolCallEvent(f"call_{uuid.uuid4().hex}", *call))

    def _close_block(self) -> None:
        if not self._block_has_calls:
            self._content(self._block)

    def _emit(self, event: Event) -> None:
        """Appends an event; neighbouring deltas of a kind become one."""
        if isinstance(event, ToolCallEvent):
            self._events.append(event)
        elif event.text:
            last = self._events[-1] if self._events else None
            if isinstance(last, ReasoningDelta | ContentDelta) and type(last) is type(event):
                self._events[-1] = type(event)(last.text + event.text)
            else:
                self._events.append(event)

    def _take(self) -> list[Event]:
        events, self._events = self._events, []
        return events


class OutputParser:
    """The state machine over token ids.

    A mark that is a token is recognised by its id alone: ordinary tokens that spell `</think>` are
    text. BOS and EOT are no text and are skipped.
    """

    def __init__(self, tokenizer: Tokenizer, tools: Sequence[Tool] = ()) -> None:
        """`tools` give the arguments their types; calls of other tools keep strings."""
        ids = marker_ids(tokenizer.special)
        self._markers = {id_: marker for marker, id_ in ids.items()}
        self._skipped = {tokenizer.special.bos, tokenizer.special.eot}
        self._decoder = StreamDecoder(tokenizer)
        self._parser = TextParser(tools, [marker for marker in Marker if marker not in ids])

    def push(self, token_ids: Iterable[int]) -> list[Event]:
        """The events that the tokens complete."""
        events: list[Event] = []
        for id_ in token_ids:
            marker = self._markers.get(id_)
            if marker is not None:
                events += self._parser.push_text(self._decoder.flush())
                events += self._parser.push_marker(marker)
            elif id_ not in self._skipped:
                events += self._parser.push_text(self._decoder.push(id_))
        return events

    def finish(self) -> list[Event]:
        """The rest, after the last token."""
        return self._parser.push_text(self._decoder.flush()) + self._parser.finish()


def fold(events: Iterable[Event]) -> Output:
    """The whole answer that the events of a stream make."""
    reasoning, content, calls = [], [], []
    for event in events:
        match event:
            case ReasoningDelta(text):
                reasoning.append(text)
            case ContentDelta(text):
                content.append(text)
            case ToolCallEvent(id_, name, arguments_json):
                calls.append(ToolCall(id_, name, arguments_json))
    return Output("".join(reasoning), "".join(content), tuple(calls))


def parse_output(tokenizer: Tokenizer, ids: Iterable[int], tools: Sequence[Tool] = ()) -> Output:
    """A whole answer at once: the folded stream."""
    parser = OutputParser(tokenizer, tools)
    return fold(parser.push(ids) + parser.finish())
