"""Stop texts in a text that comes in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopScanner:
    """Passes text on up to the first stop text.

    The stop text that is complete first counts; of two that end together, the longer one. So the
    result does not depend on the cutting into pieces. What may still become a stop text is held.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The text that is free to go; sets `stopped` at a stop text, which is not part of it."""
        text = self._held + text
        found = [(text.find(stop), stop) for stop in self._stop]
        spans = [(start + len(stop), start) for start, stop in found if start >= 0]
        if spans:
            self.stopped, self._held = True, ""
            _, start = min(spans)
            return text[:start]
        free = len(text) - self._beginning(text)
        self._held = text[free:]
        return text[:free]

    def flush(self) -> str:
        """What was held and is no stop text after all."""
        held, self._held = self._held, ""
        return held

    def _beginning(self, text: str) -> int:
        """Length of the longest end of `text` with which a stop text begins."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        return next(
            (
                size
                for size in range(min(longest, len(text)), 0, -1)
                if any(stop.startswith(text[-size:]) for stop in self._stop)
            ),
            0,
        )
