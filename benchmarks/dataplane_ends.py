"""Both ends of everything that the data plane's benchmark compares.

A server runs in the other process: it says where it is, sends back `warm_up` + `round_trips`
messages, takes `streamed` more, acknowledges them, and ends when the client has gone. Every end
uses SLOTS buffers in turn, so that caches help all alike.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import queue
import socket
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import grpc
import torch
import zmq

from shared.dataplane import transports
from shared.dataplane.channel import ReplyChannel, RequestChannel
from shared.dataplane.doorbell import Doorbell
from shared.dataplane.errors import PeerLost
from shared.dataplane.header import Status
from shared.dataplane.layout import Layout

TIMEOUT_S = 60.0
SLOTS = 4
# Over shared memory the payload is copied into the slot; the others have the kernel copy it.
COPIED = ("shm",)
ALL_CORES = os.sched_getaffinity(0)
_TOKEN_BYTES = 4096
_GRPC_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

# Connection is generic for the type checker only.
Pipe: TypeAlias = "Connection[Any, Any]"


@dataclass(frozen=True, slots=True)
class Plan:
    """What both processes do, in this order."""

    n_bytes: int
    round_trips: int
    streamed: int
    warm_up: int = 2 * SLOTS

    @property
    def echoes(self) -> int:
        """Messages that come back."""
        return self.warm_up + self.round_trips


class End(Protocol):
    """The client's side of one transport."""

    def round_trip(self) -> None:
        """Send one message and have it back."""
        ...

    def stream(self) -> None:
        """Send `Plan.streamed` messages; return when the last has arrived."""
        ...


Server = Callable[[Pipe, Plan, Path], None]
Client = Callable[[Any, Plan], AbstractContextManager[End]]


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


# The data plane.


def _layout(plan: Plan) -> Layout:
    tokens = plan.n_bytes // _TOKEN_BYTES
    return Layout(hidden=_TOKEN_BYTES // 4, top_k=0, max_tokens=tokens, slots=SLOTS)


def _serve_channel(transport: str, pipe: Pipe, plan: Plan, directory: Path) -> None:
    layout = _layout(plan)
    bell = Doorbell()
    listener = transports.listen(transport, layout, bell, directory, epoch=1, peer="attention")
    pipe.send(listener.endpoint)
    channel = ReplyChannel(listener.accept(TIMEOUT_S), layout, 1)
    for _ in range(plan.echoes):
        request = channel.recv(TIMEOUT_S)
        if transport in COPIED:
            request.answer_TH.copy_(request.hidden_TH)
        channel.reply(request)
    for _ in range(plan.streamed):
        # An answer without a payload: only the credit goes back.
        channel.reply(channel.recv(TIMEOUT_S), Status.COMPUTE_FAILED)
    with contextlib.suppress(PeerLost):
        channel.recv(TIMEOUT_S)
    channel.close()
    bell.close()


class _ChannelEnd:
    def __init__(self, channel: RequestChannel, plan: Plan) -> None:
        self._channel = channel
        self._plan = plan
        self._copied = channel.link.transport in COPIED
        self._source_TH = torch.ones(plan.n_bytes // _TOKEN_BYTES, _TOKEN_BYTES // 4)

    def _post(self) -> None:
        slot = self._channel.acquire(self._source_TH.shape[0], TIMEOUT_S)
        if self._copied:
            slot.hidden_TH.copy_(self._source_TH)
        self._channel.post(slot, step=0, layer=0, micro_batch=0, routed=False)

    def round_trip(self) -> None:
        self._post()
        self._take()

    def stream(self) -> None:
        for index in range(self._plan.streamed):
            if index >= SLOTS:
                self._take()
            self._post()
        for _ in range(min(SLOTS, self._plan.streamed)):
            self._take()

    def _take(self) -> None:
        self._channel.release(self._channel.recv(TIMEOUT_S))


@contextlib.contextmanager
def _connect_channel(transport: str, endpoint: str, plan: Plan) -> Iterator[End]:
    bell, layout = Doorbell(), _layout(plan)
    link, epoch = transports.connect(
        transport, endpoint, layout, bell, peer="ffn", timeout_s=TIMEOUT_S
    )
    channel = RequestChannel(link, layout, epoch)
    yield _ChannelEnd(channel, plan)
    channel.close()
    bell.close()


# Bare copies through shared memory, in and out; both sides spin on a counter.


class _SharedPages:
    """Counters of both directions on a page each, then SLOTS buffers for each direction."""

    def __init__(self, fd: int, n_bytes: int) -> None:
        size = 2 * mmap.PAGESIZE + 2 * SLOTS * n_bytes
        if os.fstat(fd).st_size == 0:
            os.ftruncate(fd, size)
        memory = memoryview(mmap.mmap(fd, size))
        self.counters = [memory[at : at + 8].cast("Q") for at in (0, mmap.PAGESIZE)]
        buffers = memory[2 * mmap.PAGESIZE :]
        parts = [buffers[i * n_bytes : (i + 1) * n_bytes] for i in range(2 * SLOTS)]
        self.there, self.back = parts[:SLOTS], parts[SLOTS:]

    def wait(self, direction: int, count: int) -> None:
        counter = self.counters[direction]
        while counter[0] < count:
            pass


def _serve_memcpy(pipe: Pipe, plan: Plan, directory: Path) -> None:
    fd = os.memfd_create("bench")
    pages = _SharedPages(fd, plan.n_bytes)
    pipe.send(f"/proc/{os.getpid()}/fd/{fd}")
    buffers = _buffers(plan.n_bytes)
    for count in range(plan.echoes):
        pages.wait(0, count + 1)
        buffers[count % SLOTS][:] = pages.there[count % SLOTS]
        pages.back[count % SLOTS][:] = buffers[count % SLOTS]
        pages.counters[1][0] = count + 1
    for count in range(plan.echoes, plan.echoes + plan.streamed):
        pages.wait(0, count + 1)
        buffers[count % SLOTS][:] = pages.there[count % SLOTS]
        pages.counters[1][0] = count + 1
    os.close(fd)


class _MemcpyEnd:
    def __init__(self, pages: _SharedPages, plan: Plan) -> None:
        self._pages = pages
        self._plan = plan
        self._source = memoryview(b"1" * plan.n_bytes)
        self._buffers = _buffers(plan.n_bytes)
        self._count = 0

    def _send(self) -> None:
        self._pages.there[self._count % SLOTS][:] = self._source
        self._count += 1
        self._pages.counters[0][0] = self._count

    def round_trip(self) -> None:
        self._send()
        self._pages.wait(1, self._count)
        at = (self._count - 1) % SLOTS
        self._buffers[at][:] = self._pages.back[at]

    def stream(self) -> None:
        for _ in range(self._plan.streamed):
            self._pages.wait(1, self._count + 1 - SLOTS)
            self._send()
        self._pages.wait(1, self._count)


@contextlib.contextmanager
def _open_memcpy(path: str, plan: Plan) -> Iterator[End]:
    fd = os.open(path, os.O_RDWR)
    pages = _SharedPages(fd, plan.n_bytes)
    os.close(fd)
    yield _MemcpyEnd(pages, plan)


# Plain blocking sockets.


def _receive(connection: socket.socket, buffer: memoryview) -> None:
    at = 0
    while at < len(buffer):
        n_bytes = connection.recv_into(buffer[at:])
        if not n_bytes:
            raise ConnectionResetError("the other process ended")
        at += n_bytes


def _buffers(n_bytes: int) -> list[memoryview]:
    return [memoryview(bytearray(n_bytes)) for _ in range(SLOTS)]


def _serve_socket(family: socket.AddressFamily, pipe: Pipe, plan: Plan, directory: Path) -> None:
    unix = family == socket.AF_UNIX
    with socket.socket(family) as listener:
        listener.bind(str(directory / "s") if unix else ("127.0.0.1", 0))
        listener.listen(1)
        pipe.send(listener.getsockname())
        connection, _ = listener.accept()
    with connection:
        _prepare(connection)
        buffers = _buffers(plan.n_bytes)
        for index in range(plan.echoes):
            _receive(connection, buffers[index % SLOTS])
            connection.sendall(buffers[index % SLOTS])
        for index in range(plan.streamed):
            _receive(connection, buffers[index % SLOTS])
        connection.sendall(b"1")


def _prepare(connection: socket.socket) -> None:
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * 2**20)
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _SocketEnd:
    def __init__(self, connection: socket.socket, plan: Plan) -> None:
        self._connection = connection
        self._plan = plan
        self._source = b"1" * plan.n_bytes
        self._buffers = _buffers(plan.n_bytes)
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
        connection.connect(address)
        _prepare(connection)
        yield _SocketEnd(connection, plan)


# ZeroMQ.


def _serve_zmq(scheme: str, pipe: Pipe, plan: Plan, directory: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.PAIR) as end:
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
        end.connect(endpoint)
        yield _ZmqEnd(end, plan)


# gRPC, with bytes for messages.


class _Bytes(grpc.GenericRpcHandler):
    """Echo, one by one or as streams, and a sink for the bandwidth."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        match handler_call_details.method:
            case "/bench/echo":
                return grpc.unary_unary_rpc_method_handler(lambda message, _: message)
            case "/bench/echoes":
                return grpc.stream_stream_rpc_method_handler(lambda messages, _: messages)
            case "/bench/take":
                return grpc.unary_unary_rpc_method_handler(lambda message, _: b"1")
            case "/bench/sink":
                return grpc.stream_unary_rpc_method_handler(_sink)


def _sink(messages: Iterator[bytes], _: grpc.ServicerContext) -> bytes:
    for _message in messages:
        pass
    return b"1"


def _serve_grpc(pipe: Pipe, plan: Plan, directory: Path) -> None:
    server = grpc.server(ThreadPoolExecutor(2), options=_GRPC_OPTIONS)
    server.add_generic_rpc_handlers((_Bytes(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    pipe.send(f"127.0.0.1:{port}")
    # The client's word that it is done; `serve` waits for it, too.
    pipe.poll(TIMEOUT_S)
    server.stop(None).wait(TIMEOUT_S)


class _UnaryEnd:
    def __init__(self, channel: grpc.Channel, plan: Plan) -> None:
        self._echo: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/bench/echo")
        self._take: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/bench/take")
        self._plan = plan
        self._source = b"1" * plan.n_bytes

    def round_trip(self) -> None:
        self._echo(self._source, timeout=TIMEOUT_S)

    def stream(self) -> None:
        for _ in range(self._plan.streamed):
            self._take(self._source, timeout=TIMEOUT_S)


class _StreamEnd:
    def __init__(self, channel: grpc.Channel, plan: Plan) -> None:
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        echoes: grpc.StreamStreamMultiCallable[bytes, bytes]
        echoes = channel.stream_stream("/bench/echoes")
        self._answers = echoes(iter(self._outgoing.get, None))
        self._sink: grpc.StreamUnaryMultiCallable[bytes, bytes]
        self._sink = channel.stream_unary("/bench/sink")
        self._plan = plan
        self._source = b"1" * plan.n_bytes

    def round_trip(self) -> None:
        self._outgoing.put(self._source)
        next(self._answers)

    def stream(self) -> None:
        self._outgoing.put(None)
        messages = (self._source for _ in range(self._plan.streamed))
        self._sink(messages, timeout=TIMEOUT_S)


@contextlib.contextmanager
def _connect_grpc(
    end: Callable[[grpc.Channel, Plan], End], address: str, plan: Plan
) -> Iterator[End]:
    with grpc.insecure_channel(address, options=_GRPC_OPTIONS) as channel:
        yield end(channel, plan)


def _ends_of_channel(transport: str) -> tuple[Server, Client]:
    return partial(_serve_channel, transport), partial(_connect_channel, transport)


def _ends_of_socket(family: socket.AddressFamily) -> tuple[Server, Client]:
    return partial(_serve_socket, family), partial(_connect_socket, family)


ENDS: dict[str, tuple[Server, Client]] = {
    "memcpy pair": (_serve_memcpy, _open_memcpy),
    **{name: _ends_of_channel(name) for name in transports.TRANSPORTS if name != "inproc"},
    "raw unix": _ends_of_socket(socket.AF_UNIX),
    "raw tcp": _ends_of_socket(socket.AF_INET),
    "ZeroMQ ipc": (partial(_serve_zmq, "ipc"), _connect_zmq),
    "ZeroMQ tcp": (partial(_serve_zmq, "tcp"), _connect_zmq),
    "gRPC stream": (_serve_grpc, partial(_connect_grpc, _StreamEnd)),
    "gRPC unary": (_serve_grpc, partial(_connect_grpc, _UnaryEnd)),
}
