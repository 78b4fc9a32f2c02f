"""Asks a service whether it is ready, in its own protocol."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from shared.cli.services import NAMES, Probe, probe_of
from shared.errors import Unavailable

if TYPE_CHECKING:
    from step3.v1 import info_pb2

_CHECK_S = 5.0


async def is_ready(probe: Probe, address: str, *, timeout_s: float, service: str = "") -> bool:
    """Whether the service at `address` (host:port) says within `timeout_s` that it can work.

    Args:
      probe: the protocol to ask in.
      address: host:port.
      timeout_s: how long the answer may take.
      service: a name of the gRPC health protocol; empty asks for the server as a whole.
    """
    try:
        async with asyncio.timeout(timeout_s):
            if probe == "redis":
                return await _exchange(address, b"PING\r\n") == b"+PONG\r\n"
            if probe == "http":
                request = f"GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
                status_line = await _exchange(address, request.encode())
                return status_line.split(b" ")[1:2] == [b"200"]
            return await _is_serving(address, service, timeout_s)
    except (OSError, TimeoutError):
        return False


async def check(address: str, service: str) -> None:
    """Asks one service once, as a container's health check does.

    Args:
      address: host:port.
      service: a service's name says how to ask; another name is one of the gRPC health protocol.

    Raises:
      Unavailable: it is not ready.
    """
    name = "" if service in NAMES else service
    if not await is_ready(probe_of(service), address, timeout_s=_CHECK_S, service=name):
        raise Unavailable(
            f"{service or 'the service'} at {address} is not ready: see its log",
            reason="NOT_READY",
        )


async def _exchange(address: str, request: bytes) -> bytes:
    """Sends `request` and returns the first line of the answer."""
    host, port = address.rsplit(":", maxsplit=1)
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        await writer.drain()
        return await reader.readline()
    finally:
        writer.close()


async def _is_serving(address: str, service: str, timeout_s: float) -> bool:
    from shared.rpc.client import Channels
    from shared.rpc.health import Health, check_async

    async with Channels() as channels:
        health = await check_async(channels.get(address), service, timeout_s)
    return health is Health.SERVING


async def server_info(address: str, *, timeout_s: float) -> info_pb2.GetServerInfoResponse | None:
    """What the gRPC server at `address` says of itself, or None if it says nothing in time."""
    import grpc
    from step3.v1 import info_pb2, info_pb2_grpc

    from shared.rpc.client import Channels

    async with Channels() as channels:
        stub = info_pb2_grpc.InfoServiceStub(channels.get(address))
        try:
            return await stub.GetServerInfo(info_pb2.GetServerInfoRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError:
            return None
