"""`test`: what continuous integration runs; static checks, then pytest."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import typer

from shared.settings import REPOSITORY

_STATIC = (
    ("ruff check", ("ruff", "check", ".")),
    ("ruff format", ("ruff", "format", "--check", ".")),
    ("mypy", ("mypy", "--strict")),
    ("import-linter", ("lint-imports",)),
    ("buf lint", ("buf", "lint", "proto")),
)


def run_checks(pytest_arguments: Sequence[str], *, fast: bool) -> bool:
    """Runs every step, whatever the ones before said; returns whether all passed.

    The result of each step and, last, the closing line of pytest are written at the end.
    """
    results = [] if fast else [_run_static(name, command) for name, command in _STATIC]
    selection = ("-m", "not slow and not browser") if fast else ()
    began = time.monotonic()
    passed, closing = _run_pytest([*selection, *pytest_arguments])
    results.append(_report("pytest", passed, time.monotonic() - began))
    typer.echo()
    for _, line in results:
        typer.echo(line)
    typer.echo(closing)
    return all(passed for passed, _ in results)


def _run_static(name: str, command: Sequence[str]) -> tuple[bool, str]:
    # The tools stand beside this interpreter; its folder need not be on PATH.
    tool = Path(sys.executable).parent / command[0]
    began = time.monotonic()
    result = subprocess.run(
        [str(tool), *command[1:]],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    passed = result.returncode == 0
    report = _report(name, passed, time.monotonic() - began)
    typer.echo(report[1])
    if not passed:
        typer.echo(result.stdout)
    return report


def _run_pytest(arguments: Sequence[str]) -> tuple[bool, str]:
    """Runs pytest, shows its output as it comes, and returns its last line, too."""
    colour = "yes" if sys.stdout.isatty() else "no"
    last = b""
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", f"--color={colour}", *arguments],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        while chunk := os.read(process.stdout.fileno(), 65536):
            typer.echo(chunk, nl=False)
            last = (last + chunk)[-4096:]
        status = process.wait()
    lines = last.decode(errors="replace").rstrip().splitlines()
    return status == 0, lines[-1] if lines else f"pytest ended with status {status}"


def _report(name: str, passed: bool, seconds: float) -> tuple[bool, str]:
    return passed, f"{'passed' if passed else 'FAILED'}  {name} ({seconds:.1f} s)"
