"""Plain blocking sockets."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.ends.plan import SLOTS, TIMEOUT_S, Client, End, Pipe, Plan, Server, buffers


def _receive(connection: socket.socket, buffer: memoryview) -> None:
    at = 0
    while at < len(buffer):
        n_bytes = connection.recv_into(buffer[at:])
        if not n_bytes:
            raise ConnectionResetError("the other process ended")
        at += n_bytes


def _serve_socket(family: socket.AddressFamily, pipe: Pipe, plan: Plan, directory: Path) -> None:
    unix = family == socket.AF_UNIX
    with socket.socket(family) as listener:
        listener.bind(str(directory / "s") if unix else ("127.0.0.1", 0))
        listener.listen(1)
        listener.settimeout(TIMEOUT_S)
        pipe.send(listener.getsockname())
        connection, _ = listener.accept()
    with connection:
        _prepare(connection)
        own = buffers(plan.n_bytes)
        for index in range(plan.echoes):
            _receive(connection, own[index % SLOTS])
            connection.sendall(own[index % SLOTS])
        for index in range(plan.streamed):
            _receive(connection, own[index % SLOTS])
        connection.sendall(b"1")


def _prepare(connection: socket.socket) -> None:
    connection.settimeout(TIMEOUT_S)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * 2**20)
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _SocketEnd:
    def __init__(self, connection: socket.socket, plan: Plan) -> None:
        self._connection = connection
        self._plan = plan
        self._source = b"1" * plan.n_bytes
        self._buffers = buffers(plan.n_bytes)
        self._count = 0

    def round_trip(self) -> None:
        self._connection.sendall(self._source)
        _receive(self._connection, self._buffers[self._count % SLOTS])
        self._count += 1

    def stream(self) -> None:
        for _ in range(self._plan.streamed):
            self._connection.sendall(self._source)
        self._connection.recv(1)


@contextlib.contextmanager
def _connect_socket(
    family: socket.AddressFamily, address: str | tuple[str, int], plan: Plan
) -> Iterator[End]:
    with socket.socket(family) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(address)
        _prepare(connection)
        yield _SocketEnd(connection, plan)


def raw(family: socket.AddressFamily) -> tuple[Server, Client]:
    """Both ends of a socket of `family`."""
    return partial(_serve_socket, family), partial(_connect_socket, family)
