"""`status` and `down`: what the supervisor's state says, and what the services say themselves."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import time
from pathlib import Path
from typing import Any

from shared.cli.logs import log_path
from shared.cli.probe import is_ready, server_info
from shared.cli.report import say
from shared.cli.state import RunState, ServiceState, clear_state, running_state

_PROBE_S = 2.0
# Longer than the supervisor's grace for each of its five stages.
_DOWN_DEADLINE_S = 150.0


def status(home: Path) -> dict[str, Any]:
    """The state of the run and of each service, asked now; the phase is "stopped" without one."""
    state = running_state(home)
    if state is None:
        return {"phase": "stopped", "services": []}
    services = asyncio.run(_ask_all(state))
    return {
        "phase": state.phase,
        "pid": state.pid,
        "uptime_s": round(time.time() - state.started_at, 1),
        "options": state.options,
        "services": services,
    }


def is_healthy(report: dict[str, Any]) -> bool:
    """Whether everything that should run answers."""
    return report["phase"] == "ready" and all(
        service["state"] == "ready" for service in report["services"]
    )


def print_table(report: dict[str, Any]) -> None:
    """The report for people."""
    if report["phase"] == "stopped":
        say("step3 is not running: start it with ./step3 up")
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("service", "state", "pid", "uptime", "restarts", "address", "memory"):
        table.add_column(column, no_wrap=True)
    for service in report["services"]:
        uptime_s, memory = service["uptime_s"], service["memory_bytes"]
        table.add_row(
            service["service"],
            service["state"],
            str(service["pid"] or "-"),
            "-" if uptime_s is None else f"{uptime_s:.0f} s",
            str(service["restarts"]),
            service["address"],
            "-" if memory is None else f"{memory / 2**20:.0f} MiB",
        )
    console = Console(highlight=False)
    console.print(table)
    for service in report["services"]:
        if service["capabilities"]:
            facts = ", ".join(f"{key}: {value}" for key, value in service["capabilities"].items())
            console.print(f"\n[bold]{service['service']}[/]  {escape(facts)}")


def down(home: Path) -> None:
    """Stops everything and waits for it; no process is left."""
    state = running_state(home)
    if state is None:
        say("step3 is not running")
        return
    try:
        # A pidfd is this very process and becomes readable at its end.
        supervisor = os.pidfd_open(state.pid)
    except ProcessLookupError:  # it ended just now
        clear_state(home)
        return
    try:
        signal.pidfd_send_signal(supervisor, signal.SIGTERM)
        if not select.select([supervisor], [], [], _DOWN_DEADLINE_S)[0]:
            # Its services die with it: the kernel sees to that.
            signal.pidfd_send_signal(supervisor, signal.SIGKILL)
            say(
                f"step3 did not drain within {_DOWN_DEADLINE_S:g} s and was killed: see "
                f"{log_path(home, 'supervisor')}"
            )
    finally:
        os.close(supervisor)
    clear_state(home)
    say("step3 is down")


async def _ask_all(state: RunState) -> list[dict[str, Any]]:
    return list(await asyncio.gather(*(_ask(service) for service in state.services)))


async def _ask(service: ServiceState) -> dict[str, Any]:
    condition: str = service.condition
    capabilities: dict[str, str] = {}
    if condition == "ready":
        if not await is_ready(service.probe, service.address, timeout_s=_PROBE_S):
            condition = "not answering"
        elif service.probe == "grpc":
            info = await server_info(service.address, timeout_s=_PROBE_S)
            capabilities = dict(info.capabilities) if info else {}
    started_at = service.started_at
    return {
        "service": service.label,
        "state": condition,
        "pid": service.pid,
        "uptime_s": None if started_at is None else round(time.time() - started_at, 1),
        "restarts": service.restarts,
        "address": service.address,
        "memory_bytes": None if service.pid is None else _resident_bytes(service.pid),
        "capabilities": dict(sorted(capabilities.items())),
    }


def _resident_bytes(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return None
