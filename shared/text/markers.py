"""The marks that divide a model's output, as tokens or, where a tokenizer lacks one, as text."""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import Enum

from shared.text.tokenizer import SpecialTokens


class Marker(Enum):
    """A mark; the value is its text."""

    END_THINK = "</think>"
    TOOL_CALLS_BEGIN = "<｜tool_calls_begin｜>"
    TOOL_CALLS_END = "<｜tool_calls_end｜>"
    TOOL_CALL_BEGIN = "<｜tool_call_begin｜>"
    TOOL_CALL_END = "<｜tool_call_end｜>"
    TOOL_SEP = "<｜tool_sep｜>"


def marker_ids(special: SpecialTokens) -> dict[Marker, int]:
    """The ids of the marks that are tokens."""
    ids = {
        Marker.END_THINK: special.end_think,
        Marker.TOOL_CALLS_BEGIN: special.tool_calls_begin,
        Marker.TOOL_CALLS_END: special.tool_calls_end,
        Marker.TOOL_CALL_BEGIN: special.tool_call_begin,
        Marker.TOOL_CALL_END: special.tool_call_end,
        Marker.TOOL_SEP: special.tool_sep,
    }
    return {marker: id_ for marker, id_ in ids.items() if id_ is not None}


class MarkerScanner:
    """Finds marks in a text that comes in pieces.

    Only the longest end of the text that may still become a mark is held back.
    """

    def __init__(self, markers: Collection[Marker]) -> None:
        texts = [marker.value for marker in markers]
        self._found = re.compile("(" + "|".join(map(re.escape, texts)) + ")") if texts else None
        self._beginnings = {text[:size] for text in texts for size in range(1, len(text))}
        self._longest = max(map(len, texts), default=1) - 1
        self._held = ""

    def push(self, text: str) -> list[str | Marker]:
        """Ordinary text and marks, in order."""
        if self._found is None:
            return [text] if text else []
        # Splitting by a group gives text, mark, text, mark, ..., text.
        *pieces, rest = self._found.split(self._held + text)
        sizes = range(min(len(rest), self._longest), 0, -1)
        size = next((size for size in sizes if rest[-size:] in self._beginnings), 0)
        self._held = rest[len(rest) - size :]
        found: list[str | Marker] = [
            Marker(piece) if index % 2 else piece for index, piece in enumerate(pieces)
        ]
        return [piece for piece in [*found, rest[: len(rest) - size]] if piece != ""]

    def flush(self) -> str:
        """The text that was held back and is no mark after all."""
        held, self._held = self._held, ""
        return held
