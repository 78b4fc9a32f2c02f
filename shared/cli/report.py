"""How a command ends: one sentence on stderr, and one JSON object on stdout when asked for."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from shared.errors import InvalidArgument, Step3Error

FAILED = 1
MISUSE = 2


def say(message: str) -> None:
    """Progress and notes: stderr, so that stdout stays a program's."""
    typer.echo(message, err=True)


def print_json(value: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))


def error_object(error: Step3Error) -> dict[str, dict[str, str | None]]:
    return {
        "error": {
            "code": error.code,
            "reason": error.reason,
            "message": error.message,
            "field": error.field,
        }
    }


@contextmanager
def failures(*, json_output: bool = False) -> Iterator[None]:
    """Turns an expected error into its sentence and the exit status 1, or 2 for wrong input."""
    try:
        yield
    except Step3Error as error:
        if json_output:
            print_json(error_object(error))
        say(f"error: {error.message}")
        raise SystemExit(MISUSE if isinstance(error, InvalidArgument) else FAILED) from error


def report_bug(error: Exception) -> None:
    """An unexpected error: its trace goes to a file, and the screen says where."""
    home = Path(os.environ.get("STEP3_HOME", Path.cwd() / ".step3")).absolute()
    trace = "".join(traceback.format_exception(error))
    path = home / "logs" / "cli-error.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(trace)
    except OSError as problem:
        say(f"error: {type(error).__name__}: {error} (no trace was kept: {problem})")
    else:
        say(f"error: {type(error).__name__}: {error} (a fault of step3; the trace is in {path})")
