"""Which cores the threads of a process' kernels run on.

Attention and FFN of one machine take turns: while one computes, the other waits. Left to the
scheduler, the thread that is woken often lands on the core of the thread that woke it, which has
its next message to write, while the other core idles. So each process names a core for the thread
that calls the kernels, different ones on the two sides, and its helpers get the others in order.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def cores_for(threads: int | None, first: int) -> tuple[int, ...]:
    """`threads` cores of those that this process may use (None: all), `first` of them leading.

    `first` counts from the front, or with negative numbers from the back, and wraps around.
    """
    allowed = sorted(os.sched_getaffinity(0))
    start = first % len(allowed)
    order = allowed[start:] + allowed[:start]
    count = threads or len(order)
    return tuple(order[i % len(order)] for i in range(count))


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """The calling thread runs on `core` alone while the context lasts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
