"""The log files of the services: STEP3_HOME/logs/<service>.log."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from shared.errors import InvalidArgument

_TAIL_LINES = 100
_TAIL_BYTES = 2**20
_POLL_S = 0.2


def log_path(home: Path, label: str) -> Path:
    return home / "logs" / f"{label}.log"


def rotate(path: Path) -> None:
    """Keeps the log of the run before as `.log.1`, and no older one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.replace(path.with_suffix(".log.1"))


def tail(path: Path, num_lines: int) -> list[str]:
    """The last lines of a log; none if there is no log."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-num_lines:]
    except FileNotFoundError:
        return []


def last_sentence(path: Path, service: str) -> str | None:
    """What an ended service said last, if it was one sentence for people: `service: ...`.

    A program that cannot be started says it as `error: ...`.
    """
    for line in tail(path, 1):
        for prefix in ("error: ", f"{service}: "):
            if line.startswith(prefix):
                return line.removeprefix(prefix)
    return None


def show(home: Path, service: str | None, *, follow: bool, write: Callable[[str], None]) -> None:
    """Writes the end of one service's log, or of all, and what is added while `follow`.

    Raises:
      InvalidArgument: there is no log of that service.
    """
    known = {path.stem: path for path in sorted((home / "logs").glob("*.log"))}
    chosen = {
        label: path
        for label, path in known.items()
        if service in (None, label, label.split("-")[0])
    }
    if not chosen:
        raise InvalidArgument(
            f"SERVICE = {service or ''!r}: has no log in {home / 'logs'}; "
            f"there are: {', '.join(known) or 'none'}",
            reason="UNKNOWN_SERVICE",
            field="SERVICE",
        )
    width = max(len(label) for label in chosen)

    def write_line(label: str, line: str) -> None:
        write(line if len(chosen) == 1 else f"{label:<{width}} | {line}")

    ends = {label: path.stat().st_size for label, path in chosen.items()}
    for label, path in chosen.items():
        for line in tail(path, _TAIL_LINES):
            write_line(label, line)
    while follow:
        time.sleep(_POLL_S)
        for label, path in chosen.items():
            ends[label], lines = _read_from(path, ends[label])
            for line in lines:
                write_line(label, line)


def _read_from(path: Path, start: int) -> tuple[int, list[str]]:
    """The whole lines after byte `start`, and where the next call goes on."""
    try:
        if path.stat().st_size < start:  # rotated
            start = 0
        with path.open("rb") as file:
            file.seek(start)
            text = file.read()
    except FileNotFoundError:
        return 0, []
    whole = text[: text.rfind(b"\n") + 1]
    return start + len(whole), whole.decode(errors="replace").splitlines()
