"""Both ends of everything that the data plane's benchmark compares.

A server runs in the other process: it says where it is, sends back `warm_up` + `round_trips`
messages, takes `streamed` more, acknowledges them, and ends when the client has gone. Every end
uses SLOTS buffers in turn, so that caches help all alike.
"""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import torch

from benchmarks.ends import grpc_bytes, zeromq
from benchmarks.ends.channel import channel
from benchmarks.ends.memory import memcpy
from benchmarks.ends.plan import Client, Pipe, Server
from benchmarks.ends.sockets import raw
from shared.dataplane import transports

ALL_CORES = os.sched_getaffinity(0)

ENDS: dict[str, tuple[Server, Client]] = {
    "memcpy": memcpy(1),
    "memcpy pair": memcpy(2),
    **{name: channel(name) for name in transports.TRANSPORTS if name != "inproc"},
    "raw unix": raw(socket.AF_UNIX),
    "raw tcp": raw(socket.AF_INET),
    "ZeroMQ ipc": zeromq.pair("ipc"),
    "ZeroMQ tcp": zeromq.pair("tcp"),
    "gRPC stream": grpc_bytes.stream(),
    "gRPC unary": grpc_bytes.unary(),
}


def place(name: str, server: bool) -> None:
    """Give each end a core of its own, but for those with threads of their own: they get all."""
    cores = sorted(ALL_CORES)
    threaded = name.startswith(("ZeroMQ", "gRPC")) or len(cores) == 1
    os.sched_setaffinity(0, cores if threaded else {cores[-1] if server else cores[0]})


def serve(pipe: Pipe, scratch: str) -> None:
    """The other process: one server after the other, until None comes."""
    torch.set_num_threads(1)
    while (order := pipe.recv()) is not None:
        name, plan = order
        server, _ = ENDS[name]
        place(name, server=True)
        with tempfile.TemporaryDirectory(dir=scratch) as directory:
            server(pipe, plan, Path(directory))
        assert pipe.recv() == "done"
