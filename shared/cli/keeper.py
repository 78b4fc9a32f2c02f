"""Keeps one service running: start, readiness, restart with back-off, stop."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shared.cli.logs import last_sentence, rotate
from shared.cli.probe import is_ready
from shared.cli.process import Child
from shared.cli.services import Service
from shared.cli.state import Condition, ServiceState
from shared.errors import Unavailable

# Says something of a service: its label, and a line.
Tell = Callable[[str, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The patience with a service.

    Args:
      start_s: from its start to its readiness.
      grace_s: from SIGTERM to SIGKILL.
      backoff_s: the first pause before a restart; it doubles up to `max_backoff_s`.
      max_crashes: so many within `crash_window_s` and it is given up.
      poll_s: between two questions for readiness.
      probe_s: how long one answer may take.
    """

    start_s: float = 60.0
    # Longer than a service takes to finish the answers that it is giving (shared.rpc.server).
    grace_s: float = 25.0
    backoff_s: float = 0.5
    max_backoff_s: float = 10.0
    max_crashes: int = 5
    crash_window_s: float = 60.0
    poll_s: float = 0.1
    probe_s: float = 2.0


class Keeper:
    """One service and what is done for it.

    Args:
      service: what to run.
      log: where its output goes; the file of the run before is kept beside it.
      limits: how long to wait, how often to try again.
      hurry: set when a stop must not wait any more.
      save: called after each change of `state`.
      tell: what happens, for the operator.
      echo: the service's own output, line by line; None for none.
    """

    def __init__(
        self,
        service: Service,
        *,
        log: Path,
        limits: Limits,
        hurry: asyncio.Event,
        save: Callable[[], None],
        tell: Tell,
        echo: Tell | None,
    ) -> None:
        self._service = service
        self._log = log
        self._limits = limits
        self._hurry = hurry
        self._save = save
        self._tell = tell
        self._echo = echo
        self._child: Child | None = None
        self._keeping: asyncio.Task[None] | None = None
        self.state = ServiceState(label=service.label, address=service.address, probe=service.probe)

    async def start(self) -> None:
        """Starts the service, waits until it is ready, and keeps it running from then on.

        Raises:
          Unavailable: it ended or was not ready in time; the message is its own if it had one.
        """
        rotate(self._log)
        child = await self._spawn()
        problem = await self._wait_ready(child)
        if problem is not None:
            label = self._service.label
            own = last_sentence(self._log, self._service.name) if child.ended.done() else None
            raise Unavailable(
                f"{label}: {own}" if own else f"{label} {problem}: its log is {self._log}",
                reason="SERVICE_FAILED",
                metadata={"service": label},
            )
        self._keeping = asyncio.create_task(self._keep(child))

    async def stop(self) -> None:
        """Ends the service, and restarts it no more."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        if self._child is not None and not self._child.ended.done():
            went = await self._child.stop(grace_s=self._limits.grace_s, hurry=self._hurry)
            self._tell(self._service.label, "stopped" if went else "did not stop: killed")
        self._change("stopped")

    async def _spawn(self) -> Child:
        service = self._service
        echo = self._echo
        self._child = await Child.start(
            service.command,
            environment=os.environ,
            log=self._log,
            echo=None if echo is None else lambda line: echo(service.label, line),
        )
        self.state.pid = self._child.pid
        self.state.started_at = time.time()
        self._change("starting")
        return self._child

    async def _wait_ready(self, child: Child) -> str | None:
        """Waits for readiness; returns what stood against it, if anything."""
        began = time.monotonic()
        service, limits = self._service, self._limits
        while True:
            ready = await is_ready(service.probe, service.address, timeout_s=limits.probe_s)
            if child.ended.done():
                return f"{_describe_end(child.ended.result())} before it was ready"
            waited_s = time.monotonic() - began
            if ready:
                self._tell(service.label, f"ready on {service.address} after {waited_s:.1f} s")
                self._change("ready")
                return None
            if waited_s > limits.start_s:
                return f"was not ready after {limits.start_s:g} s"
            await asyncio.wait({child.ended}, timeout=limits.poll_s)

    async def _keep(self, child: Child) -> None:
        limits = self._limits
        crashes: deque[float] = deque()
        problem: str | None = None
        while True:
            if problem is None:
                await asyncio.wait({child.ended})
                problem = _describe_end(child.ended.result())
            else:
                await child.stop(grace_s=limits.grace_s, hurry=self._hurry)
            now = time.monotonic()
            crashes.append(now)
            while crashes[0] < now - limits.crash_window_s:
                crashes.popleft()
            self.state.pid = None
            if len(crashes) >= limits.max_crashes:
                self._tell(
                    self._service.label,
                    f"{problem}; given up after {len(crashes)} crashes within "
                    f"{limits.crash_window_s:g} s: see {self._log}",
                )
                self._change("given up")
                return
            pause_s = min(limits.backoff_s * 2 ** (len(crashes) - 1), limits.max_backoff_s)
            self._tell(self._service.label, f"{problem}; restarting in {pause_s:g} s")
            self.state.restarts += 1
            self._change("restarting")
            await asyncio.sleep(pause_s)
            child = await self._spawn()
            problem = await self._wait_ready(child)

    def _change(self, condition: Condition) -> None:
        self.state.condition = condition
        if condition in ("stopped", "given up"):
            self.state.pid = self.state.started_at = None
        self._save()


def _describe_end(status: int) -> str:
    if status < 0:
        return f"was ended by signal {-status} ({signal.strsignal(-status)})"
    return f"ended with status {status}"
