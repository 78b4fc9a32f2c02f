"""Bare copies through shared memory, both sides spinning on a counter: the physical limit."""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.ends.plan import SLOTS, TIMEOUT_S, Client, End, Pipe, Plan, Server, buffers

# At a counter between two looks at the clock.
_LOOKS = 10_000


class _SharedPages:
    """Counters of both directions on a page each, then SLOTS buffers for each direction."""

    def __init__(self, fd: int, n_bytes: int) -> None:
        size = 2 * mmap.PAGESIZE + 2 * SLOTS * n_bytes
        if os.fstat(fd).st_size == 0:
            os.ftruncate(fd, size)
        memory = memoryview(mmap.mmap(fd, size))
        self.counters = [memory[at : at + 8].cast("Q") for at in (0, mmap.PAGESIZE)]
        buffers = memory[2 * mmap.PAGESIZE :]
        parts = [buffers[i * n_bytes : (i + 1) * n_bytes] for i in range(2 * SLOTS)]
        self.there, self.back = parts[:SLOTS], parts[SLOTS:]

    def wait(self, direction: int, count: int) -> None:
        """Spin until a counter has come as far.

        Raises:
          TimeoutError: the other process did nothing for TIMEOUT_S.
        """
        counter = self.counters[direction]
        deadline = time.monotonic() + TIMEOUT_S
        while counter[0] < count:
            for _ in range(_LOOKS):
                if counter[0] >= count:
                    return
            if time.monotonic() > deadline:
                raise TimeoutError("the other process went away")


def _serve_memcpy(copies: int, pipe: Pipe, plan: Plan, directory: Path) -> None:
    fd = os.memfd_create("bench")
    pages = _SharedPages(fd, plan.n_bytes)
    pipe.send(f"/proc/{os.getpid()}/fd/{fd}")
    own = buffers(plan.n_bytes)
    for count in range(plan.echoes + plan.streamed):
        at = count % SLOTS
        pages.wait(0, count + 1)
        message = pages.there[at]
        if copies == 2:
            own[at][:] = message
            message = own[at]
        if count < plan.echoes:
            pages.back[at][:] = message
        pages.counters[1][0] = count + 1
    os.close(fd)


class _MemcpyEnd:
    def __init__(self, copies: int, pages: _SharedPages, plan: Plan) -> None:
        self._copies = copies
        self._pages = pages
        self._plan = plan
        self._source = memoryview(b"1" * plan.n_bytes)
        self._buffers = buffers(plan.n_bytes)
        self._count = 0

    def _send(self) -> None:
        self._pages.there[self._count % SLOTS][:] = self._source
        self._count += 1
        self._pages.counters[0][0] = self._count

    def round_trip(self) -> None:
        self._send()
        self._pages.wait(1, self._count)
        if self._copies == 2:
            at = (self._count - 1) % SLOTS
            self._buffers[at][:] = self._pages.back[at]

    def stream(self) -> None:
        for _ in range(self._plan.streamed):
            self._pages.wait(1, self._count + 1 - SLOTS)
            self._send()
        self._pages.wait(1, self._count)


@contextlib.contextmanager
def _open_memcpy(copies: int, path: str, plan: Plan) -> Iterator[End]:
    fd = os.open(path, os.O_RDWR)
    pages = _SharedPages(fd, plan.n_bytes)
    os.close(fd)
    yield _MemcpyEnd(copies, pages, plan)


def memcpy(copies: int) -> tuple[Server, Client]:
    """Both ends; a hop is one copy, read where it lies, or two: in and out."""
    return partial(_serve_memcpy, copies), partial(_open_memcpy, copies)
