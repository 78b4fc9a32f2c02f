"""gRPC with bytes for messages: unary calls, and a stream in each direction."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from benchmarks.ends.plan import TIMEOUT_S, Client, End, Pipe, Plan, Server

_GRPC_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


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
        self._answers = echoes(iter(self._outgoing.get, None), timeout=TIMEOUT_S)
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


def unary() -> tuple[Server, Client]:
    """Both ends, a call a message."""
    return _serve_grpc, partial(_connect_grpc, _UnaryEnd)


def stream() -> tuple[Server, Client]:
    """Both ends, one call for all messages."""
    return _serve_grpc, partial(_connect_grpc, _StreamEnd)
