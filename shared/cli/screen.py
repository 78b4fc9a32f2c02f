"""The supervisor's lines: its own and, with a coloured prefix, those of the services."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import typer

_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green")


class Screen:
    """Where a supervisor's lines go.

    Args:
      log: gets what the supervisor says, with the time.
      visible: whether somebody may watch: everything goes to stderr, too.
    """

    def __init__(self, log: Path, *, visible: bool) -> None:
        self._log = log
        self._visible = visible
        self._colours: dict[str, str] = {}

    def tell(self, label: str, line: str) -> None:
        """A line of the supervisor about a service."""
        self.write(f"{self._prefix(label)} {typer.style(line, bold=True)}")
        # A full disk costs these lines, and nothing else.
        with suppress(OSError), self._log.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {label}: {line}\n")

    def echo(self, label: str, line: str) -> None:
        """A line of a service's output."""
        self.write(f"{self._prefix(label)} {line}")

    def write(self, line: str) -> None:
        """A line of its own."""
        if not self._visible:
            return
        try:
            typer.echo(line, err=True)
        except OSError:
            # A pipe whose reader went away (`| head`): the services go on, their logs too.
            self._visible = False

    def _prefix(self, label: str) -> str:
        colour = self._colours.setdefault(label, _COLOURS[len(self._colours) % len(_COLOURS)])
        return typer.style(f"{label:<10} |", fg=colour)
