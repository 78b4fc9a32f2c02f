"""ZeroMQ pairs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import zmq

from benchmarks.ends.plan import TIMEOUT_S, Client, End, Pipe, Plan, Server


def _prepare(end: zmq.Socket[bytes]) -> None:
    for option in (zmq.RCVTIMEO, zmq.SNDTIMEO, zmq.LINGER):
        end.setsockopt(option, int(TIMEOUT_S * 1e3))


def _serve_zmq(scheme: str, pipe: Pipe, plan: Plan, directory: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.PAIR) as end:
        _prepare(end)
        end.bind(f"ipc://{directory}/z" if scheme == "ipc" else "tcp://127.0.0.1:0")
        pipe.send(end.getsockopt_string(zmq.LAST_ENDPOINT))
        for _ in range(plan.echoes):
            end.send(end.recv(copy=False), copy=False)
        for _ in range(plan.streamed):
            end.recv(copy=False)
        end.send(b"1")


class _ZmqEnd:
    def __init__(self, end: zmq.Socket[bytes], plan: Plan) -> None:
        self._end = end
        self._plan = plan
        self._source = b"1" * plan.n_bytes

    def round_trip(self) -> None:
        self._end.send(self._source, copy=False)
        self._end.recv(copy=False)

    def stream(self) -> None:
        for _ in range(self._plan.streamed):
            self._end.send(self._source, copy=False)
        self._end.recv()


@contextlib.contextmanager
def _connect_zmq(endpoint: str, plan: Plan) -> Iterator[End]:
    with zmq.Context() as context, context.socket(zmq.PAIR) as end:
        _prepare(end)
        end.connect(endpoint)
        yield _ZmqEnd(end, plan)


def pair(scheme: str) -> tuple[Server, Client]:
    """Both ends over "ipc" or "tcp"."""
    return partial(_serve_zmq, scheme), _connect_zmq
