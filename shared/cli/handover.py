"""Commands that another module of the project carries out, started by its name."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from shared.errors import InvalidArgument
from shared.settings import REPOSITORY


def execute(command: Sequence[str]) -> NoReturn:
    """Replaces this process by `command`: signals and the exit status are its own."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], list(command))


def run_module(module: str, arguments: Sequence[str]) -> NoReturn:
    """Replaces this process by `python -m module`."""
    execute([sys.executable, "-P", "-m", module, *arguments])


def benchmarks() -> list[str]:
    """The names that `bench` takes: the modules of benchmarks/ that can be run."""
    files = (REPOSITORY / "benchmarks").glob("[a-z]*.py")
    return sorted(path.stem for path in files if '"__main__"' in path.read_text())


def run_benchmark(name: str, arguments: Sequence[str]) -> NoReturn:
    """Runs benchmarks/<name>.py.

    Raises:
      InvalidArgument: there is no such benchmark.
    """
    if name not in benchmarks():
        raise InvalidArgument(
            f"NAME = {name!r}: is no benchmark; there are: {', '.join(benchmarks()) or 'none'}",
            reason="UNKNOWN_BENCHMARK",
            field="NAME",
        )
    run_module(f"benchmarks.{name}", arguments)
