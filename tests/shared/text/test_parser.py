import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.text.conversation import Tool
from shared.text.markers import Marker
from shared.text.parser import (
    ContentDelta,
    Event,
    OutputParser,
    ReasoningDelta,
    TextParser,
    ToolCallEvent,
    fold,
    parse_output,
)
from shared.text.tokenizer import Tokenizer
from shared.text.train_tokenizer import train_tokenizer

VECTORS = json.loads(
    (Path(__file__).parents[2] / "data" / "step3-tiny" / "parsers.json").read_text("utf-8")
)
TOOLS = [
    Tool(tool["function"]["name"], "", json.dumps(tool["function"]["parameters"]))
    for tool in VECTORS["tools"]
]
TOKENIZER = Tokenizer(train_tokenizer(["<steptml:invoke name= and 42 東京 ok\n"] * 3, 360))

# Deliberate differences from the released parsers' whole results.
IMPROVED_CALLS = {"array_kept_as_text": [("get_weather", '{"tags": [1, 2]}')]}
IMPROVED_REASONING = {
    # The template's newlines around </think> belong to neither side.
    "<think>\nabc\n</think>\n\nxyz": ("<think>\nabc", "\nxyz"),
}

Folded = tuple[str, str, list[tuple[str, str]]]


def folded(events: Iterable[Event]) -> Folded:
    """An answer without the calls' random ids."""
    output = fold(events)
    calls = [(call.name, call.arguments_json) for call in output.tool_calls]
    return output.reasoning, output.content, calls


def read_text(*pieces: str) -> Folded:
    parser = TextParser(TOOLS)
    events = [event for piece in pieces for event in parser.push_text(piece)]
    return folded(events + parser.finish())


def read_ids(tokenizer: Tokenizer, *pieces: list[int]) -> Folded:
    parser = OutputParser(tokenizer, TOOLS)
    events = [event for piece in pieces for event in parser.push(piece)]
    return folded(events + parser.finish())


def call(body: str, type_: str = "function") -> str:
    return f"<｜tool_call_begin｜>{type_}<｜tool_sep｜>{body}<｜tool_call_end｜>"


def invoke(name: str, **values: str) -> str:
    parameters = (
        f'<steptml:parameter name="{key}">{value}</steptml:parameter>'
        for key, value in values.items()
    )
    return f'<steptml:invoke name="{name}">{"".join(parameters)}</steptml:invoke>'


def block(*calls: str) -> str:
    return "<｜tool_calls_begin｜>" + "\n".join(calls) + "<｜tool_calls_end｜>"


@pytest.mark.parametrize("case", VECTORS["tool_calls"], ids=lambda case: case["case"])
def test_tool_call_vectors(case: dict[str, Any]) -> None:
    full = case["full"]
    calls = [(item["name"], item["arguments"]) for item in full["calls"]]
    calls = IMPROVED_CALLS.get(case["case"], calls)
    expected = ("", full["content"] or "", calls)
    assert read_text("</think>" + case["text"]) == expected
    ids = TOKENIZER.encode("</think>" + case["text"], allow_special=True)
    assert read_ids(TOKENIZER, ids) == expected
    assert read_ids(TOKENIZER, *([id_] for id_ in ids)) == expected


@pytest.mark.parametrize("case", VECTORS["reasoning"], ids=lambda case: case["text"])
def test_reasoning_vectors(case: dict[str, Any]) -> None:
    full = case["full"]
    expected = IMPROVED_REASONING.get(case["text"], (full["reasoning"], full["content"] or ""))
    assert read_text(case["text"]) == (*expected, [])
    ids = TOKENIZER.encode(case["text"], allow_special=True)
    assert read_ids(TOKENIZER, ids) == (*expected, [])


RICH = (
    "東京 <thin</\n\n</think>\n\n Let <｜tool me 🙂 \n"
    + block(
        call(invoke("get_weather", city=" 東京 ", days="3")), call("?"), call(invoke("ping"))
    )
    + "\n and </think> then \n"
)  # fmt: skip
RICH_OUTPUT = (
    "東京 <thin</\n",
    "\n Let <｜tool me 🙂 \n\n and </think> then",
    [("get_weather", '{"city": "東京", "days": 3}'), ("ping", "{}")],
)
FAILED = "a\n</think>\nb " + block(call(invoke("ping"), "retrieval"), call("x")) + " \n"
UNCLOSED = "a</think>\n" + block(call(invoke("ping")), call(invoke("ping")))[:-30]
TEXTS = {
    RICH: RICH_OUTPUT,
    FAILED: ("a", FAILED.removeprefix("a\n</think>\n"), []),
    UNCLOSED: ("a", "", [("ping", "{}")]),
    "only\n thinking\n": ("only\n thinking\n", "", []),
    "\n</think>\n": ("", "", []),
    "": ("", "", []),
}


@pytest.mark.parametrize("text", TEXTS)
def test_every_cut_into_two_and_into_characters(text: str) -> None:
    assert read_text(text) == TEXTS[text]
    assert read_text(*text) == TEXTS[text]
    for cut in range(len(text) + 1):
        assert read_text(text[:cut], text[cut:]) == TEXTS[text]


@pytest.mark.parametrize("text", TEXTS)
def test_every_cut_of_the_tokens_into_two(text: str) -> None:
    ids = TOKENIZER.encode(text, allow_special=True)
    for cut in range(len(ids) + 1):
        assert read_ids(TOKENIZER, ids[:cut], ids[cut:]) == TEXTS[text]


FRAGMENTS = st.sampled_from(
    [marker.value for marker in Marker]
    + ["function", invoke("ping"), invoke("get_weather", days="x"), call(invoke("nope", a="1"))]
    + [" ", "\n", "a", "<", "</", "<｜tool_c", "🙂", "<think>"]
)
CUTS = st.lists(st.integers(0, 400), max_size=12)


@settings(derandomize=True, max_examples=300, deadline=None, database=None)
@given(st.lists(FRAGMENTS, max_size=16).map("".join), CUTS)
def test_any_cut_of_any_text(text: str, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    assert read_text(*(text[a:b] for a, b in pairwise(places))) == read_text(text)
    ids = TOKENIZER.encode(text, allow_special=True)
    places = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    assert read_ids(TOKENIZER, *(ids[a:b] for a, b in pairwise(places))) == read_text(text)


@settings(derandomize=True, max_examples=200, deadline=None, database=None)
@given(st.lists(st.integers(0, TOKENIZER.vocab_size + 3), max_size=40), CUTS)
def test_any_cut_of_any_tokens(ids: list[int], cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    pieces = [ids[a:b] for a, b in pairwise(places)]
    assert read_ids(TOKENIZER, *pieces) == read_ids(TOKENIZER, ids)


def test_text_is_given_out_at_once() -> None:
    parser = TextParser(TOOLS)
    assert parser.push_text("I think") == [ReasoningDelta("I think")]
    assert parser.push_text(" </th") == [ReasoningDelta(" ")]
    assert parser.push_text("ese>") == [ReasoningDelta("</these>")]
    assert parser.push_text("</think>yes") == [ContentDelta("yes")]
    begin = parser.push_text("<｜tool_calls_begin｜>" + call(invoke("ping"))[:-1])
    assert begin == []
    [event] = parser.push_text(">")
    assert isinstance(event, ToolCallEvent)
    assert (event.name, event.arguments_json) == ("ping", "{}")
    assert event.id.startswith("call_")
    assert parser.finish() == []


def test_calls_have_ids_of_their_own() -> None:
    ids = TOKENIZER.encode("</think>" + block(call(invoke("ping")) * 2), allow_special=True)
    first, second = parse_output(TOKENIZER, ids).tool_calls
    assert first.id != second.id


def test_marks_are_tokens_not_their_spelling() -> None:
    """A model that quotes a mark in ordinary tokens neither stops thinking nor calls a tool."""
    text = "</think>" + block(call(invoke("ping")))
    ids = TOKENIZER.encode(text, allow_special=False)
    assert read_ids(TOKENIZER, ids) == (text, "", [])
    ids = [TOKENIZER.special.end_think, *ids]
    assert read_ids(TOKENIZER, ids) == ("", text, [])


def test_end_of_turn_is_no_text() -> None:
    ids = TOKENIZER.encode("a</think>b<|EOT|>", allow_special=True)
    assert read_ids(TOKENIZER, ids) == ("a", "b", [])


def test_marks_that_the_tokenizer_lacks_are_found_in_the_text() -> None:
    hf = train_tokenizer(["x"], 300)
    kept = json.loads(hf.to_str())
    kept["added_tokens"] = [t for t in kept["added_tokens"] if "tool_" not in t["content"]]
    for name in [name for name in kept["model"]["vocab"] if "tool_" in name]:
        kept["model"]["vocab"][name.replace("tool_", "free_")] = kept["model"]["vocab"].pop(name)
    tokenizer = Tokenizer(type(hf).from_str(json.dumps(kept)))
    assert tokenizer.special.tool_sep is None
    ids = tokenizer.encode(RICH, allow_special=True)
    assert read_ids(tokenizer, *([id_] for id_ in ids)) == RICH_OUTPUT


def test_several_blocks() -> None:
    text = "</think>a " + block(call(invoke("ping"))) + " b " + block(call(invoke("nope", a="1")))
    assert read_text(text) == ("", "a  b", [("ping", "{}"), ("nope", '{"a": "1"}')])


def test_a_failed_block_after_a_good_one_is_content() -> None:
    failed = block(call("x"))
    text = "</think>" + block(call(invoke("ping"))) + failed
    assert read_text(text) == ("", failed, [("ping", "{}")])
