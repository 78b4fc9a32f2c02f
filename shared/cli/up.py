"""`up`: everything of this machine, in this terminal or in the background."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.cli.config import load_settings
from shared.cli.logs import log_path, rotate, tail
from shared.cli.ports import check_ports
from shared.cli.report import failures, say
from shared.cli.screen import Screen
from shared.cli.services import Service, start_order
from shared.cli.state import (
    RunState,
    clear_state,
    read_state,
    running_state,
    take_lock,
)
from shared.cli.supervisor import Supervisor
from shared.errors import FailedPrecondition, Unavailable

if TYPE_CHECKING:
    from shared.settings import Settings

# A little more than the supervisor gives a service to start, for each of its five stages.
_DETACH_DEADLINE_S = 330.0
_POLL_S = 0.05
_TAIL_LINES = 15


def up(settings: Settings, *, ui: bool, detach: bool) -> None:
    """Starts everything, unless it runs already with the same options.

    Raises:
      FailedPrecondition: it runs with other options, or a port is taken.
      Unavailable: a service did not become ready; nothing is left running.
    """
    options = _options(settings, ui=ui)
    running = running_state(settings.home)
    if running is not None:
        _check_same(running, options)
        say("step3 is up already")
        print_addresses(running)
        return
    stages = start_order(settings, ui=ui)
    check_ports((service for stage in stages for service in stage), settings.port_base)
    if detach:
        _start_detached(settings.home, ui=ui)
    else:
        run_supervisor(settings, stages, options=options, detached=False)


def run_supervisor(
    settings: Settings, stages: list[list[Service]], *, options: dict[str, Any], detached: bool
) -> None:
    """Runs the supervisor in this process until it is told to stop."""
    home = settings.home
    lock = take_lock(home)
    if lock is None:
        raise _already_starting(home)
    log = log_path(home, "supervisor")
    if not detached:  # a detached one's own output is that file
        rotate(log)
    screen = Screen(log, visible=not detached)
    state = RunState(pid=os.getpid(), started_at=time.time(), options=options)
    supervisor = Supervisor(
        stages,
        home=home,
        state=state,
        tell=screen.tell,
        echo=None if detached else screen.echo,
    )

    def on_ready() -> None:
        print_addresses(state, screen.write)
        screen.write("Ctrl-C stops it")

    try:
        asyncio.run(supervisor.run(on_ready))
    finally:
        os.close(lock)


def print_addresses(state: RunState, write: Callable[[str], None] = say) -> None:
    """The addresses that people use: the console and the gateway."""
    for service in state.services:
        if service.label == "ui":
            write(f"console  http://{service.address}")
        elif service.label == "gateway":
            write(f"gateway  {service.address} (gRPC)")


def _options(settings: Settings, *, ui: bool) -> dict[str, Any]:
    return {
        "model": str(settings.model),
        "ffn": settings.ffn.shards,
        "transport": settings.transport,
        "ui": ui,
        "port_base": settings.port_base,
    }


def _check_same(running: RunState, options: dict[str, Any]) -> None:
    other = [name for name, value in options.items() if running.options.get(name) != value]
    if other:
        difference = ", ".join(
            f"{name} is {running.options.get(name)!r} and not {options[name]!r}" for name in other
        )
        raise FailedPrecondition(
            f"step3 is up already with other options ({difference}): run ./step3 down first",
            reason="ALREADY_RUNNING",
        )


def _already_starting(home: Path) -> FailedPrecondition:
    return FailedPrecondition(
        f"another step3 is being started with STEP3_HOME = {home}: see ./step3 status",
        reason="ALREADY_RUNNING",
    )


def _start_detached(home: Path, *, ui: bool) -> None:
    """Starts a supervisor in a session of its own and follows it until everything is ready."""
    log = log_path(home, "supervisor")
    rotate(log)
    # Every other option is in the environment by now.
    command = [sys.executable, "-P", "-m", "shared.cli.up", "ui" if ui else "no-ui"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        state = _follow(process, home)
    except BaseException:  # Ctrl-C, too: nothing half started stays behind
        with suppress(subprocess.TimeoutExpired):
            process.terminate()
            process.wait(30)
        process.kill()
        raise
    print_addresses(state)
    say("./step3 down stops it")


def _follow(process: subprocess.Popen[bytes], home: Path) -> RunState:
    said: set[str] = set()
    deadline = time.monotonic() + _DETACH_DEADLINE_S
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        state = read_state(home)
        mine = state if state is not None and state.pid == process.pid else None
        if mine is not None:
            for service in mine.services:
                if service.condition == "ready" and service.label not in said:
                    said.add(service.label)
                    say(f"{service.label:<10} ready on {service.address}")
            if mine.phase == "ready":
                return mine
        if ended:
            _raise_failed(mine, home)
        time.sleep(_POLL_S)
    raise Unavailable(
        f"step3 was not up after {_DETACH_DEADLINE_S:g} s: see {home / 'logs'}", reason="START_SLOW"
    )


def _raise_failed(state: RunState | None, home: Path) -> None:
    if state is None and running_state(home) is not None:
        raise _already_starting(home)
    if state is None or state.error is None:
        log = log_path(home, "supervisor")
        last = (tail(log, 1) or ["no message"])[0].removeprefix("error: ")
        raise Unavailable(f"the supervisor ended: {last}", reason="START_FAILED")
    clear_state(home)
    if state.failed is not None:
        for line in tail(log_path(home, state.failed), _TAIL_LINES):
            say(f"{state.failed} | {line}")
    raise Unavailable(state.error, reason="SERVICE_FAILED")


def _main() -> None:
    """The detached supervisor: its options are in the environment."""
    ui = sys.argv[1] == "ui"
    with failures():
        settings = load_settings()
        run_supervisor(
            settings,
            start_order(settings, ui=ui),
            options=_options(settings, ui=ui),
            detached=True,
        )


if __name__ == "__main__":
    _main()
