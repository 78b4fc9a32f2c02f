import json
from typing import Any

import pytest

from shared.text.conversation import ToolCall
from shared.text.steptml import parse_invoke, render_invoke


def cast(text: str, schema: Any) -> Any:
    body = f'<steptml:invoke name="f"><steptml:parameter name="x">{text}</steptml:parameter>'
    parsed = parse_invoke(body, {"f": {"properties": {"x": schema}}})
    assert parsed is not None
    assert parsed[0] == "f"
    return json.loads(parsed[1])["x"]


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        (" a\n", {"type": "string"}, "a"),
        (" 3 ", {"type": "string"}, "3"),
        (" 3 ", {"type": "integer"}, 3),
        ("3.5", {"type": "integer"}, "3.5"),
        ("9" * 5000, {"type": "integer"}, "9" * 5000),
        ("0.5", {"type": "number"}, 0.5),
        ("nan", {"type": "number"}, "nan"),
        ("1e999", {"type": "number"}, "1e999"),
        ("TRUE", {"type": "boolean"}, True),
        ("false", {"type": "boolean"}, False),
        ("yes", {"type": "boolean"}, "yes"),
        ("null", {"type": "null"}, None),
        ("none", {"type": "null"}, "none"),
        ('["a", 1]', {"type": "array"}, ["a", 1]),
        ('{"a": {"b": 1}}', {"type": "object"}, {"a": {"b": 1}}),
        ("{}", {"type": "array"}, "{}"),
        ("[1", {"type": "array"}, "[1"),
        ("[NaN]", {"type": "array"}, "[NaN]"),
        ("[" * 100_000, {"type": "array"}, "[" * 100_000),
        ("3", {"type": ["string", "integer"]}, 3),
        ("x", {"type": ["string", "integer"]}, "x"),
        ("null", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, None),
        ("7", {"oneOf": [True, {"type": "integer"}]}, 7),
        ("7", {"type": "quaternion"}, "7"),
        ("7", {}, "7"),
        ("7", True, "7"),
    ],
)
def test_values_are_cast_by_the_schema(text: str, schema: Any, value: Any) -> None:
    found = cast(text, schema)
    assert found == value
    assert type(found) is type(value)


def test_an_unknown_tool_s_values_stay_strings() -> None:
    text = render_invoke(ToolCall("", "nope", '{"a": 1}'))
    assert parse_invoke(text, {}) == ("nope", '{"a": "1"}')


@pytest.mark.parametrize("text", ["", "ping", "<steptml:invoke>", '<steptml:invoke name="">'])
def test_no_call(text: str) -> None:
    assert parse_invoke(text, {}) is None


def test_text_is_not_escaped() -> None:
    assert parse_invoke(render_invoke(ToolCall("", "f", '{"x": "ä & b"}')), {}) == (
        "f",
        '{"x": "ä & b"}',
    )
