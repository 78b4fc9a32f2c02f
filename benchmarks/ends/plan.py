"""What both processes of the data plane's benchmark do, and what an end of it can do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol, TypeAlias

TIMEOUT_S = 60.0
SLOTS = 4

# Connection is generic for the type checker only.
Pipe: TypeAlias = "Connection[Any, Any]"


@dataclass(frozen=True, slots=True)
class Plan:
    """What both processes do, in this order."""

    n_bytes: int
    round_trips: int
    streamed: int
    warm_up: int = 2 * SLOTS

    @property
    def echoes(self) -> int:
        """Messages that come back."""
        return self.warm_up + self.round_trips


class End(Protocol):
    """The client's side of one transport."""

    def round_trip(self) -> None:
        """Send one message and have it back."""
        ...

    def stream(self) -> None:
        """Send `Plan.streamed` messages; return when the last has arrived."""
        ...


Server = Callable[[Pipe, Plan, Path], None]
Client = Callable[[Any, Plan], AbstractContextManager[End]]


def buffers(n_bytes: int) -> list[memoryview]:
    """SLOTS buffers of a message each."""
    return [memoryview(bytearray(n_bytes)) for _ in range(SLOTS)]
