"""The supervisor's lines: its own and, with a coloured prefix, those of the services."""

from __future__ import annotations

import time
from pathlib import Path

import typer

_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green")


class Screen:
    """Writes to stderr, and what the supervisor says to `log`, too."""

    def __init__(self, log: Path | None) -> None:
        self._log = log
        self._colours: dict[str, str] = {}
        self._is_gone = False

    def tell(self, label: str, line: str) -> None:
        """A line of the supervisor about a service."""
        self._write(f"{self._prefix(label)} {typer.style(line, bold=True)}")
        if self._log is not None:
            with self._log.open("a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {label}: {line}\n")

    def echo(self, label: str, line: str) -> None:
        """A line of a service's output."""
        self._write(f"{self._prefix(label)} {line}")

    def _write(self, line: str) -> None:
        if self._is_gone:
            return
        try:
            typer.echo(line, err=True)
        except OSError:
            # A pipe whose reader went away (`| head`): the services go on, their logs too.
            self._is_gone = True

    def _prefix(self, label: str) -> str:
        colour = self._colours.setdefault(label, _COLOURS[len(self._colours) % len(_COLOURS)])
        return typer.style(f"{label:<10} |", fg=colour)
