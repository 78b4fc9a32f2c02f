from __future__ import annotations

from itertools import combinations, pairwise

import pytest

from services.gateway.stop import StopScanner


def scan(pieces: list[str], stop: list[str]) -> tuple[str, bool]:
    scanner = StopScanner(stop)
    text = ""
    for piece in pieces:
        text += scanner.push(piece)
        if scanner.stopped:
            return text, True
    return text + scanner.flush(), False


@pytest.mark.parametrize(
    ("text", "stop", "wanted"),
    [
        ("abcdef", [], ("abcdef", False)),
        ("abcdef", ["cd"], ("ab", True)),
        ("abcdef", ["fg"], ("abcdef", False)),
        ("aababc", ["abc"], ("aab", True)),
        ("abcdef", ["ef", "bc"], ("a", True)),
        # Complete first is what counts, though the other one begins earlier.
        ("abcdef", ["abcde", "cd"], ("ab", True)),
        # Of two that end together, the longer one.
        ("abcdef", ["cd", "bcd"], ("a", True)),
        ("abcdef", ["a"], ("", True)),
    ],
)
def test_every_cut_gives_the_same(text, stop, wanted):
    places = range(1, len(text))
    for size in range(len(text)):
        for cuts in combinations(places, size):
            edges = [0, *cuts, len(text)]
            pieces = [text[a:b] for a, b in pairwise(edges)]
            assert scan(pieces, stop) == wanted, pieces


def test_nothing_that_may_become_a_stop_text_is_passed_on():
    scanner = StopScanner(["END"])
    assert scanner.push("a E") == "a "
    assert scanner.push("N") == ""
    assert scanner.push("x") == "ENx"
    assert scanner.flush() == ""
