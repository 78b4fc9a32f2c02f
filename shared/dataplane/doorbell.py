"""One thing to sleep on for any number of channels: an eventfd, and the peers' signs of death.

The peer rings after it has published, so a bell that rang between "nothing there" and "sleep"
is still readable: no wake-up is lost. Death needs no polling either, since the kernel closes a
dying peer's socket and marks its pidfd readable, and both sit in the same epoll set.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable

from shared.dataplane.errors import ChannelClosed

# Long enough for a layer's answer: a sleeper's core goes idle, and waking it costs more than the
# message. Every look ends in a yield, so that whoever has work on this core, the process that
# computes the answer perhaps, need not wait for the end of this.
SPIN_NS = 500_000
# A peer's death is noticed at once by whoever sleeps; whoever is busy looks this often.
CHECK_NS = 1_000_000
# Between two looks at peers whose death the kernel does not report: those on another host.
TICK_NS = 25_000_000

_INPUT = select.EPOLLIN | select.EPOLLRDHUP


class Doorbell:
    """Waits for messages and peer deaths. One thread waits; any thread may ring or close."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.sleeps = 0
        self._epoll = select.epoll()
        self._epoll.register(self.fd, select.EPOLLIN)
        self._watched: dict[int, Callable[[], None]] = {}
        self._ticking: dict[int, Callable[[], None]] = {}
        self._next_tick_ns = 0
        # Held while sleeping and while closing, so that no thread sleeps on a recycled fd.
        self._sleep_lock = threading.Lock()
        # Held while touching the descriptors without sleeping, for the same reason.
        self._lock = threading.Lock()
        self._closed = False
        self._next_check_ns = 0

    def ring(self) -> None:
        """Wake the waiter; what it waits for must already be true."""
        with self._lock:
            if not self._closed:
                os.eventfd_write(self.fd, 1)

    def watch(
        self, fd: int, on_event: Callable[[], None], on_tick: Callable[[], None] | None = None
    ) -> None:
        """Call `on_event` from the waiting thread when `fd` becomes readable or hangs up.

        `on_tick` is called about every TICK_NS while the thread waits or checks.
        """
        with self._lock:
            if not self._closed:
                self._watched[fd] = on_event
                if on_tick is not None:
                    self._ticking[fd] = on_tick
                self._epoll.register(fd, _INPUT)

    def watch_output(self, fd: int, wanted: bool) -> None:
        """Whether a watched `fd` that can be written to counts as an event, too."""
        with self._lock:
            if fd in self._watched and not self._closed:
                self._epoll.modify(fd, _INPUT | select.EPOLLOUT if wanted else _INPUT)

    def unwatch(self, fd: int) -> None:
        """Stop watching; called before the fd is closed."""
        with self._lock:
            self._ticking.pop(fd, None)
            if self._watched.pop(fd, None) is not None and not self._closed:
                self._epoll.unregister(fd)

    def wait(self, ready: Callable[[], bool], deadline_ns: int) -> bool:
        """Return True once `ready()` holds, False at the deadline.

        Args:
          ready: cheap, called many times; whoever makes it true rings afterwards, unless it looks
            at a watched descriptor itself.
          deadline_ns: on the clock of `time.monotonic_ns`.

        Raises:
          ChannelClosed: the bell was closed.
        """
        spin_until = min(time.monotonic_ns() + SPIN_NS, deadline_ns)
        while True:
            if ready():
                return True
            if time.monotonic_ns() >= spin_until:
                break
            os.sched_yield()
        with self._sleep_lock:
            self.sleeps += 1
            while not self._closed:
                left_ns = deadline_ns - time.monotonic_ns()
                if self._ticking:
                    left_ns = min(left_ns, TICK_NS)
                self._sleep(max(0, left_ns) / 1e9)
                if ready():
                    return True
                if time.monotonic_ns() >= deadline_ns:
                    return False
        raise ChannelClosed("the data plane was closed while waiting")

    def check(self) -> None:
        """Notice dead peers without waiting; at most CHECK_NS late."""
        now_ns = time.monotonic_ns()
        if now_ns >= self._next_check_ns:
            self._next_check_ns = now_ns + CHECK_NS
            with self._sleep_lock:
                if not self._closed:
                    self._sleep(0)

    def _sleep(self, timeout_s: float) -> None:
        for fd, _ in self._epoll.poll(timeout_s):
            if fd == self.fd:
                os.eventfd_read(fd)
            elif on_event := self._watched.get(fd):
                on_event()
        if self._ticking and (now_ns := time.monotonic_ns()) >= self._next_tick_ns:
            self._next_tick_ns = now_ns + TICK_NS
            for on_tick in list(self._ticking.values()):
                on_tick()

    def close(self) -> None:
        """Wake the waiter and release the file descriptors. Calling it again does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            os.eventfd_write(self.fd, 1)
        with self._sleep_lock:
            self._watched.clear()
            self._ticking.clear()
            self._epoll.close()
            os.close(self.fd)
