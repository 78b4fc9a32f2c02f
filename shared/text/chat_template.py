"""Renders a conversation to token ids: the prompt that is served, the example that is trained on.

    {BOS}{system}<|BOT|>user
    {content}<|EOT|><|BOT|>assistant
    <think>
    {reasoning}
    </think>
    {content}{tool calls}<|EOT|>

A prompt ends after `<think>` and its newline; an example is that very prompt and the rest of the
last turn, on which alone the loss is taken. All earlier assistant turns are
`<|BOT|>assistant`, newline, `{content}{tool calls}<|EOT|>`, in prompts and examples alike:
reasoning is long, clients do not send it back, and the model must see in training what it will see
in use.
A conversation with several assistant turns to learn from makes one example for each.

An image is one `<im_patch>`, which the vision side expands. Tools are JSON lines after the system
text. A tool's result is a turn of the role `tool`; results stand in the order of the calls.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from shared.text.conversation import ImagePart, Message, Part, TextPart, Tool, ToolCall, validate
from shared.text.markers import Marker, marker_ids
from shared.text.steptml import CALL_TYPE, render_invoke
from shared.text.tokenizer import Tokenizer

_TOOLS_HEADER = "# Tools\nFunctions that you may call, one JSON definition a line:\n"


@dataclass(frozen=True)
class Rendered:
    """Token ids of a conversation.

    Attributes:
      ids: T token ids, BOS first.
      loss_mask: T flags, True on the tokens that the assistant generates: reasoning, content, calls
        and the closing EOT of the last turn. All False in a prompt.
      image_positions: where in `ids` the images' `<im_patch>` are, in the order of the image parts.
    """

    ids: list[int] = field(default_factory=list)
    loss_mask: list[bool] = field(default_factory=list)
    image_positions: list[int] = field(default_factory=list)


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Sequence[Tool] = (),
    *,
    training: bool = False,
) -> Rendered:
    """Token ids of `messages`.

    Args:
      tokenizer: of the model that reads them.
      messages: the conversation.
      tools: the functions that the model may call.
      training: False gives the prompt of the next assistant turn; True takes the last message, an
        assistant's, as that turn and marks it in the loss mask.

    Raises:
      InvalidArgument: the conversation is not valid; `field` is the path of what is wrong.
    """
    validate(messages, tools, training=training)
    writer = _Writer(tokenizer)
    system = messages[0].parts if messages[0].role == "system" else ()
    turns = messages[1:] if messages[0].role == "system" else messages
    answer = turns[-1] if training else None
    history = turns[:-1] if training else turns

    if tokenizer.special.bos is not None:
        writer.special(tokenizer.special.bos)
    writer.text(_system_text(system, tools))
    for message in history:
        writer.header(message.role)
        writer.content(message)
        writer.special(tokenizer.special.eot)
    writer.header("assistant")
    writer.special(tokenizer.special.think)
    writer.text("\n")
    if answer is not None:
        writer.learned = True
        writer.text(f"{answer.reasoning}\n")
        writer.marker(Marker.END_THINK)
        writer.content(answer, before="\n")
        writer.special(tokenizer.special.eot)
    return writer.rendered


class _Writer:
    """Appends tokens. Every text it gets is encoded by itself and as ordinary text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.rendered = Rendered()
        self.learned = False
        self._tokenizer = tokenizer
        self._marker_ids = marker_ids(tokenizer.special)

    def text(self, text: str) -> None:
        self._extend(self._tokenizer.encode(text, allow_special=False))

    def special(self, id_: int) -> None:
        self._extend([id_])

    def marker(self, marker: Marker) -> None:
        id_ = self._marker_ids.get(marker)
        if id_ is None:
            self.text(marker.value)
        else:
            self.special(id_)

    def header(self, role: str) -> None:
        self.special(self._tokenizer.special.bot)
        self.text(f"{role}\n")

    def content(self, message: Message, before: str = "") -> None:
        parts: list[Part] = [TextPart(before), *message.parts]
        # Neighbouring texts are one text: how a client cuts them must not change the tokens.
        for is_image, run in groupby(parts, key=lambda part: isinstance(part, ImagePart)):
            if is_image:
                for _ in run:
                    self.rendered.image_positions.append(len(self.rendered.ids))
                    self.special(self._tokenizer.special.im_patch)
            else:
                self.text(_joined(list(run)))
        if message.tool_calls:
            self.calls(message.tool_calls)

    def calls(self, calls: Sequence[ToolCall]) -> None:
        self.marker(Marker.TOOL_CALLS_BEGIN)
        self.text("\n")
        for call in calls:
            self.marker(Marker.TOOL_CALL_BEGIN)
            self.text(CALL_TYPE)
            self.marker(Marker.TOOL_SEP)
            self.text(render_invoke(call))
            self.marker(Marker.TOOL_CALL_END)
            self.text("\n")
        self.marker(Marker.TOOL_CALLS_END)

    def _extend(self, ids: Sequence[int]) -> None:
        self.rendered.ids.extend(ids)
        self.rendered.loss_mask.extend([self.learned] * len(ids))


def _system_text(parts: Sequence[Part], tools: Sequence[Tool]) -> str:
    text = _joined(parts)
    if not tools:
        return text
    definitions = (
        {
            "name": tool.name,
            "description": tool.description,
            "parameters": json.loads(tool.parameters_json),
        }
        for tool in tools
    )
    lines = [json.dumps(definition, ensure_ascii=False) for definition in definitions]
    return (f"{text}\n\n" if text else "") + _TOOLS_HEADER + "\n".join(lines) + "\n"


def _joined(parts: Sequence[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, TextPart))
