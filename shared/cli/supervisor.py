"""Starts services in the order of their health, keeps them running, and stops them in reverse.

The run's state (shared.cli.state) is written at every change, for `status` and `down`.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from shared.cli.keeper import Keeper, Limits, Tell
from shared.cli.logs import log_path
from shared.cli.services import Service
from shared.cli.state import RunState, clear_state, write_state
from shared.errors import Unavailable


class Supervisor:
    """Runs stages of services until it is told to stop."""

    def __init__(
        self,
        stages: Sequence[Sequence[Service]],
        *,
        home: Path,
        state: RunState,
        tell: Tell,
        echo: Tell | None,
        limits: Limits | None = None,
    ) -> None:
        self._home = home
        self._state = state
        self._tell = tell
        self._hurry = asyncio.Event()
        self._stages = [
            [
                Keeper(
                    service,
                    log=log_path(home, service.label),
                    limits=limits or Limits(),
                    hurry=self._hurry,
                    save=self._save,
                    tell=tell,
                    echo=echo,
                )
                for service in services
            ]
            for services in stages
        ]
        state.services = [keeper.state for stage in self._stages for keeper in stage]

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Starts everything, calls `on_ready`, and returns after a signal and the drain.

        The first SIGINT, SIGTERM or SIGHUP drains; the second kills.

        Raises:
          Unavailable: a service did not become ready. Everything is stopped again by then, and
            the state says "failed".
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_signal() -> None:
            if stop.is_set():
                self._hurry.set()
            stop.set()

        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in signals:
            loop.add_signal_handler(number, on_signal)
        starting = asyncio.create_task(self._start())
        stopped = asyncio.create_task(stop.wait())
        try:
            self._save()
            await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                self._state.phase = "ready"
                self._save()
                on_ready()
                await stopped
        except Unavailable as error:
            self._state.error = error.message
            self._state.failed = error.metadata["service"]
            raise
        finally:
            stopped.cancel()
            await self._drain(starting)
            for number in signals:
                loop.remove_signal_handler(number)

    def _save(self) -> None:
        try:
            write_state(self._home, self._state)
        except OSError as error:
            # `status` gets stale; that is no reason to let the services down.
            self._tell("step3", f"the state cannot be written to {self._home}: {error.strerror}")

    async def _start(self) -> None:
        for stage in self._stages:
            starts = [asyncio.create_task(keeper.start()) for keeper in stage]
            try:
                await asyncio.gather(*starts)
            finally:
                for start in starts:
                    start.cancel()
                await asyncio.wait(starts)

    async def _drain(self, starting: asyncio.Task[None]) -> None:
        starting.cancel()
        await asyncio.wait({starting})
        self._state.phase = "draining"
        self._save()
        for stage in reversed(self._stages):
            await asyncio.gather(*(keeper.stop() for keeper in stage))
        if self._state.error is None:
            clear_state(self._home)
        else:
            self._state.phase = "failed"
            self._save()
