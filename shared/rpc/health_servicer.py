"""grpc.health.v1 for a server: Check, and a Watch that ends when the server drains."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Status = health_pb2.HealthCheckResponse.ServingStatus


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """The standard protocol. grpcio-health-checking's servicer lets an open Watch hold up a drain.

    The name "" stands for the whole process.
    """

    def __init__(self) -> None:
        self._status: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._closed = False

    def set(self, names: Iterable[str], serving: bool) -> None:
        """The status of services by full name; ignored once closed."""
        if not self._closed:
            status = Status.SERVING if serving else Status.NOT_SERVING
            self._update(dict.fromkeys(names, status))

    def close(self) -> None:
        """Everything is NOT_SERVING for good; watchers are told so, and end."""
        self._closed = True
        self._update(dict.fromkeys(self._status, Status.NOT_SERVING))

    def _update(self, status: dict[str, int]) -> None:
        self._status |= status
        # Each watcher waits for the event that was current when it looked.
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        status = self._status.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r} here")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        told = None
        while True:
            changed, closed = self._changed, self._closed
            status = self._status.get(request.service, Status.SERVICE_UNKNOWN)
            if status != told:
                yield health_pb2.HealthCheckResponse(status=status)
                told = status
            if closed:
                return
            await changed.wait()
