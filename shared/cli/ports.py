"""Finds a taken port before anything is started, and who holds it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from shared.cli.services import Service
from shared.errors import FailedPrecondition

_TCP_LISTEN = "0A"  # the state column of /proc/net/tcp


def check_ports(services: Iterable[Service], port_base: int) -> None:
    """Raises FailedPrecondition if a service's port is taken or cannot be bound."""
    for service in services:
        host, port = service.address.rsplit(":", maxsplit=1)
        problem = _bind_error(host, int(port))
        if problem is None:
            continue
        if problem.errno == errno.EADDRINUSE:
            text = f"is taken by {_holder(int(port))}: stop that"
        else:
            text = (
                f"on {host} cannot be bound ({os.strerror(problem.errno or 0)}): check STEP3_HOST"
            )
        raise FailedPrecondition(
            f"port {port} of {service.label} {text}, or move all ports of step3 with "
            f"STEP3_PORT_BASE (now {port_base})",
            reason="PORT_TAKEN",
            field="STEP3_PORT_BASE",
            metadata={"port": port, "service": service.label},
        )


def _bind_error(host: str, port: int) -> OSError | None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def _holder(port: int) -> str:
    """The name and pid of the process that listens on `port`, as far as /proc lets one see."""
    inodes = _listening_inodes(port)
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = os.readlink(descriptor)
        except OSError:  # another user's process, or one that just ended
            continue
        if target.startswith("socket:[") and target[len("socket:[") : -1] in inodes:
            pid = descriptor.parts[2]
            try:
                name = Path(f"/proc/{pid}/comm").read_text().strip()
            except OSError:
                continue
            return f"{name} (pid {pid})"
    return "another process"


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            columns = row.split()
            local, state, inode = columns[1], columns[3], columns[9]
            if state == _TCP_LISTEN and int(local.rsplit(":", maxsplit=1)[1], 16) == port:
                inodes.add(inode)
    return inodes
