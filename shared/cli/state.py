"""What runs on this machine: STEP3_HOME/run/state.json, and the lock that says it is true."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from shared.cli.services import Probe
from shared.errors import FailedPrecondition

Phase = Literal["starting", "ready", "draining", "failed"]
Condition = Literal["waiting", "starting", "ready", "restarting", "given up", "stopped"]


@dataclass(slots=True, kw_only=True)
class ServiceState:
    label: str
    address: str
    probe: Probe
    condition: Condition = "waiting"
    pid: int | None = None
    # Unix seconds.
    started_at: float | None = None
    restarts: int = 0


@dataclass(slots=True, kw_only=True)
class RunState:
    """One run of the supervisor."""

    pid: int
    # Unix seconds.
    started_at: float
    options: dict[str, Any]
    phase: Phase = "starting"
    # Why the phase is "failed": one sentence.
    error: str | None = None
    # The label of the service that it is about.
    failed: str | None = None
    services: list[ServiceState] = field(default_factory=list)


def _state_file(home: Path) -> Path:
    return home / "run" / "state.json"


def write_state(home: Path, state: RunState) -> None:
    path = _state_file(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(f".{os.getpid()}.new")
    new.write_text(json.dumps(dataclasses.asdict(state), indent=1))
    new.replace(path)


def clear_state(home: Path) -> None:
    _state_file(home).unlink(missing_ok=True)


def read_state(home: Path) -> RunState | None:
    """The state file as it is, whether its supervisor lives or not."""
    try:
        record = json.loads(_state_file(home).read_text())
        services = [ServiceState(**service) for service in record.pop("services")]
        return RunState(**record, services=services)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FailedPrecondition(
            f"{_state_file(home)} is not readable ({error}): stop what runs and remove it",
            reason="BAD_STATE",
        ) from error


def running_state(home: Path) -> RunState | None:
    """The state of the living supervisor, or None; what a dead one left behind is removed."""
    try:
        descriptor = os.open(_lock_file(home), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        # Shared: two askers do not take each other for a supervisor, and none can start while the
        # leftovers are removed.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return read_state(home)
    else:
        clear_state(home)
        return None
    finally:
        os.close(descriptor)


def take_lock(home: Path, *, patience_s: float = 1.0) -> int | None:
    """Locks `home` for one supervisor: the open file, or None if another holds it.

    The kernel drops the lock when the process ends, so it can neither go stale nor be mistaken for
    another process that has the same pid. An asker holds it for an instant, hence the patience.
    """
    path = _lock_file(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                return None
            time.sleep(0.02)
        else:
            return descriptor


def _lock_file(home: Path) -> Path:
    return home / "run" / "supervisor.lock"
