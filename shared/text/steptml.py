"""StepTML: how one tool call is written, and how it is read by the tool's schema.

    <steptml:invoke name="NAME">
    <steptml:parameter name="P">VALUE</steptml:parameter>...
    </steptml:invoke>

all in one line. The format has no escapes: a parameter whose VALUE has a `<` in it is lost, as it
is in the released parsers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from shared.text.conversation import ToolCall

# The only type of call that the format has; it stands before the separator token.
CALL_TYPE = "function"

_INVOKE = re.compile(r'<steptml:invoke name="([^"]+)">(.*)', re.DOTALL)
_PARAMETER = re.compile(r'<steptml:parameter name="([^"]+)">([^<]*)</steptml:parameter>')


def render_invoke(call: ToolCall) -> str:
    """StepTML of a call; strings as they are, other values as JSON."""
    arguments: dict[str, Any] = json.loads(call.arguments_json)
    parameters = (
        f'<steptml:parameter name="{name}">{_value_text(value)}</steptml:parameter>'
        for name, value in arguments.items()
    )
    return f'<steptml:invoke name="{call.name}">{"".join(parameters)}</steptml:invoke>'


def parse_invoke(text: str, schemas: Mapping[str, Any]) -> tuple[str, str] | None:
    """The name and the JSON arguments of the call in `text`, or None if there is none.

    Args:
      text: what stands between the separator and the end of a call.
      schemas: JSON schemas of the arguments by tool name; an unknown tool's values stay strings.
    """
    invoke = _INVOKE.search(text)
    if invoke is None:
        return None
    name, body = invoke.groups()
    properties = schemas.get(name, {}).get("properties", {})
    arguments = {
        key: _cast(value.strip(), properties.get(key)) for key, value in _PARAMETER.findall(body)
    }
    return name, json.dumps(arguments, ensure_ascii=False)


def _value_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cast(text: str, schema: Any) -> Any:
    """The value that the schema asks for, or the text itself when it is none."""
    for type_ in _types(schema):
        try:
            return _cast_to(type_, text)
        except (ValueError, RecursionError):
            continue
    return text


def _types(schema: Any) -> list[str]:
    """The types that a schema or its alternatives allow; string, which all text is, comes last."""
    schema = schema if isinstance(schema, dict) else {}
    types: list[str] = []
    for alternative in [schema, *schema.get("anyOf", []), *schema.get("oneOf", [])]:
        declared = alternative.get("type", []) if isinstance(alternative, dict) else []
        types += [declared] if isinstance(declared, str) else declared
    return sorted(types, key=lambda type_: type_ == "string")


def _cast_to(type_: str, text: str) -> Any:
    """Raises ValueError when `text` is no value of the JSON schema type `type_`."""
    match type_:
        case "string":
            return text
        case "integer":
            return int(text)
        case "number":
            number = float(text)
            # JSON has neither NaN nor infinity.
            if math.isfinite(number):
                return number
        case "boolean" if text.lower() in ("true", "false"):
            return text.lower() == "true"
        case "null" if text.lower() == "null":
            return None
        case "array" | "object":
            value = json.loads(text, parse_constant=_refuse)
            if isinstance(value, list if type_ == "array" else dict):
                return value
    raise ValueError(f"{text!r} is no {type_}")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
