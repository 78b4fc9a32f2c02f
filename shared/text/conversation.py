"""What a conversation is, and which conversations are valid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from shared.errors import InvalidArgument

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class TextPart:
    text: str


@dataclass(frozen=True)
class ImagePart:
    """The place of an image. The caller keeps the pictures: the n-th part here is the n-th one."""


Part = TextPart | ImagePart


@dataclass(frozen=True)
class ToolCall:
    """A call that the model made; `arguments_json` is a JSON object."""

    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True)
class Tool:
    """A function that the model may call; `parameters_json` is the JSON schema of an object."""

    name: str
    description: str = ""
    parameters_json: str = "{}"


@dataclass(frozen=True)
class Message:
    """One turn.

    Attributes:
      role: who speaks.
      parts: text and images in reading order.
      reasoning: of the assistant's turn that is learned; other turns' reasoning is not read.
      tool_calls: of an assistant's turn, made after its parts.
      tool_call_id: of a tool's turn, the call that it answers.
    """

    role: Role
    parts: Sequence[Part] = ()
    reasoning: str = ""
    tool_calls: Sequence[ToolCall] = field(default=())
    tool_call_id: str = ""


def validate(messages: Sequence[Message], tools: Sequence[Tool], *, training: bool) -> None:
    """Checks a conversation before it is rendered.

    Args:
      messages: in order; a system message only at the start. The tool turns after an assistant's
        turn answer its calls, all of them and in their order.
      tools: the functions offered.
      training: whether the last turn is the assistant's, to be learned, rather than a user's or a
        tool's, to be answered.

    Raises:
      InvalidArgument: `field` is the path of what is wrong, such as messages[2].parts[0].
    """
    if not messages:
        raise _invalid("messages", "the conversation is empty: send at least one user message")
    for index, tool in enumerate(tools):
        _validate_tool(tool, f"tools[{index}]")
    unanswered: list[str] = []
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        _validate_message(message, path, first=index == 0)
        if message.role == "tool":
            _answer(unanswered, message.tool_call_id, path)
        elif unanswered:
            raise _invalid(path, f"call {unanswered[0]!r} has no tool message: answer it first")
        unanswered += [call.id for call in message.tool_calls]

    role, path = messages[-1].role, f"messages[{len(messages) - 1}].role"
    if training and role != "assistant":
        raise _invalid(path, f"is {role!r}: an example ends with the assistant's turn")
    if not training and role not in ("user", "tool"):
        raise _invalid(path, f"is {role!r}: the last message must be a user's or a tool's")
    if not training and unanswered:
        raise _invalid("messages", f"call {unanswered[0]!r} has no tool message: answer it first")


def _validate_message(message: Message, path: str, *, first: bool) -> None:
    role = message.role
    if role not in get_args(Role):
        raise _invalid(f"{path}.role", f"is {role!r}: use one of {', '.join(get_args(Role))}")
    if role == "system" and not first:
        raise _invalid(f"{path}.role", "is 'system': a system message must be the first")
    for index, part in enumerate(message.parts):
        if isinstance(part, TextPart):
            _validate_text(part.text, f"{path}.parts[{index}]")
        elif role not in ("user", "tool"):
            raise _invalid(
                f"{path}.parts[{index}]",
                f"is an image in a message of the role {role!r}: images go into user or tool turns",
            )
    if role == "user" and not any(
        isinstance(part, ImagePart) or part.text.strip() for part in message.parts
    ):
        raise InvalidArgument(
            f"{path}.parts: the prompt is empty: write a text or add an image",
            reason="EMPTY_PROMPT",
            field=f"{path}.parts",
        )
    if role != "assistant" and message.tool_calls:
        raise _invalid(f"{path}.tool_calls", f"is set for {role!r}: only an assistant calls tools")
    _validate_text(message.reasoning, f"{path}.reasoning")
    for index, call in enumerate(message.tool_calls):
        _validate_name(call.name, f"{path}.tool_calls[{index}].name")
        _validate_object(call.arguments_json, f"{path}.tool_calls[{index}].arguments_json")


def _answer(unanswered: list[str], call_id: str, path: str) -> None:
    if not unanswered:
        raise _invalid(path, "is a tool result without a call: send the assistant's call before it")
    if call_id != unanswered[0]:
        raise _invalid(
            f"{path}.tool_call_id",
            f"is {call_id!r}, but the next call to answer is {unanswered[0]!r}: "
            "answer calls in their order",
        )
    del unanswered[0]


def _validate_tool(tool: Tool, path: str) -> None:
    _validate_name(tool.name, f"{path}.name")
    _validate_text(tool.description, f"{path}.description")
    path += ".parameters_json"
    _validate_object(tool.parameters_json, path)
    properties = json.loads(tool.parameters_json).get("properties", {})
    if not isinstance(properties, dict):
        raise _invalid(path, "has properties that are no object: send the JSON schema of an object")
    for name, schema in properties.items():
        _validate_property(schema, f"{path}.properties.{name}")


def _validate_property(schema: object, path: str) -> None:
    """Checks what the output parser reads of a parameter's schema."""
    if not isinstance(schema, dict):
        return
    for key in ("anyOf", "oneOf"):
        if not isinstance(schema.get(key, []), list):
            raise _invalid(f"{path}.{key}", "is no list: send a list of schemas")
    for alternative in [schema, *schema.get("anyOf", []), *schema.get("oneOf", [])]:
        declared = alternative.get("type", []) if isinstance(alternative, dict) else []
        types = [declared] if isinstance(declared, str) else declared
        if not isinstance(types, list) or not all(isinstance(type_, str) for type_ in types):
            raise _invalid(f"{path}.type", f"is {declared!r}: name a type or a list of types")


def _validate_name(name: str, path: str) -> None:
    if not name or set(name) & set('"<>') or not name.isprintable():
        raise _invalid(path, f'is {name!r}: a name is not empty and has no quote, "<" or ">"')


def _validate_object(text: str, path: str) -> None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _invalid(path, f"is no JSON ({error}): send a JSON object") from error
    if not isinstance(value, dict):
        raise _invalid(path, f"is the JSON of a {type(value).__name__}: send a JSON object")
    # JSON's escapes can spell what is no text.
    _validate_text(json.dumps(value, ensure_ascii=False), path)


def _validate_text(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _invalid(path, "holds half of a surrogate pair: send valid Unicode") from error


def _invalid(path: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"{path}: {problem}", reason="INVALID_CONVERSATION", field=path)
