"""The base of every service process: one gRPC server with health, reflection and server info."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from importlib.metadata import version
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from step3.v1 import info_pb2, info_pb2_grpc

from shared.errors import FailedPrecondition, Step3Error
from shared.rpc.health_servicer import HealthServicer
from shared.rpc.interceptor import ErrorInterceptor
from shared.rpc.logging import setup_logging
from shared.rpc.options import SERVER_OPTIONS
from shared.settings import Settings

logger = logging.getLogger(__name__)

# After health says NOT_SERVING: time for watchers to notice before new calls are refused.
DRAIN_NOTICE_S = 0.3
# After that: time for running calls to finish. An orchestrator must wait longer than the sum.
DRAIN_S = 20.0

Servicer = TypeVar("Servicer")


class RpcServer:
    """A bound gRPC server; `start`, then `set_serving(True)` once the service can answer.

    Args:
      service: "gateway", "attention", ...: the name in logs, errors and settings.
      settings: gives the host and the port.
      index: which instance of the service on this machine.
      port: in place of the settings' port; 0 takes a free one.
      capabilities: facts for the server info, asked for at each call.

    Raises:
      FailedPrecondition: the address cannot be bound.
    """

    def __init__(
        self,
        service: str,
        settings: Settings,
        *,
        index: int = 0,
        port: int | None = None,
        capabilities: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self.service = service
        self._errors = ErrorInterceptor(service)
        self._grpc = grpc.aio.server(interceptors=[self._errors], options=SERVER_OPTIONS)
        self._names: list[str] = []
        self._health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        self.add(
            "step3.v1.InfoService",
            info_pb2_grpc.add_InfoServiceServicer_to_server,
            _Info(service, settings, capabilities),
        )
        wanted = settings.port(service, index) if port is None else port
        self.address = f"{settings.host}:{_bind(self._grpc, settings.host, wanted)}"

    def add(
        self, name: str, add: Callable[[Servicer, grpc.aio.Server], None], servicer: Servicer
    ) -> None:
        """Register `servicer` under its full proto `name`, before `start`."""
        add(servicer, self._grpc)
        self._names.append(name)

    async def start(self) -> None:
        """Answer health (NOT_SERVING) and server info; other calls get UNAVAILABLE for now."""
        await self.set_serving(False)
        reflection.enable_server_reflection(
            [*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._grpc
        )
        await self._grpc.start()
        logger.info("listening on %s", self.address)

    async def set_serving(self, serving: bool) -> None:
        """Say whether the service can answer; the first True opens it to calls."""
        self._health.set(("", *self._names), serving)
        if serving:
            self._errors.starting = False

    async def drain(self, hurry: asyncio.Event | None = None) -> None:
        """Refuse new calls, let running ones finish within DRAIN_S, then close.

        Args:
          hurry: when it is set, running calls are cancelled at once.
        """
        hurry = hurry or asyncio.Event()
        self._health.close()
        await _wait(hurry, DRAIN_NOTICE_S)
        stopping = asyncio.create_task(self._grpc.stop(DRAIN_S))
        hurried = asyncio.create_task(hurry.wait())
        await asyncio.wait({stopping, hurried}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not stopping.done():
            await self._grpc.stop(None)
        await stopping


async def serve(server: RpcServer, prepare: Callable[[], Awaitable[None]] | None = None) -> None:
    """Run `server` until SIGTERM or SIGINT, then drain it; a second signal ends it at once.

    Args:
      server: not started yet.
      prepare: loads what the service needs, while health says NOT_SERVING. The service is SERVING
        when it returns. Without it, the caller says so by `server.set_serving`.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await server.start()
    try:
        if prepare is not None and await _finished(prepare(), stop):
            await server.set_serving(True)
            logger.info("ready")
        await stop.wait()
    finally:
        logger.info("draining")
        await server.drain(hurry)
        logger.info("stopped")


def run(service: str, main: Coroutine[Any, Any, None]) -> int:
    """The body of a service's `__main__`: logs, the event loop, and the exit status.

    What a person can mend (a taken port, a broken checkpoint) ends in one sentence and status 1.
    """
    setup_logging(service)
    try:
        asyncio.run(main)
    except (Step3Error, ValueError) as error:
        logger.debug("startup failed", exc_info=error)
        sys.stderr.write(f"{service}: {error}\n")
        return 1
    return 0


def _bind(server: grpc.aio.Server, host: str, port: int) -> int:
    try:
        return server.add_insecure_port(f"{host}:{port}")
    except RuntimeError:
        raise FailedPrecondition(
            f"cannot listen on {host}:{port}: the port is taken or the host is not this machine's; "
            "set STEP3_PORT_BASE (port_base) to move all ports, STEP3_HOST (host) for the host",
            reason="PORT_TAKEN",
        ) from None


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return


async def _finished(work: Awaitable[None], stop: asyncio.Event) -> bool:
    """Await `work`; False, and the work cancelled, when `stop` is set first."""
    working, stopped = asyncio.ensure_future(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working})
    if working.cancelled():
        return False
    working.result()
    return True


class _Info(info_pb2_grpc.InfoServiceServicer):
    def __init__(
        self, service: str, settings: Settings, capabilities: Callable[[], Mapping[str, str]]
    ) -> None:
        self._service = service
        self._config_hash = hashlib.sha256(settings.model_dump_json().encode()).hexdigest()
        self._capabilities = capabilities
        self._started = time.monotonic()

    async def GetServerInfo(
        self, request: info_pb2.GetServerInfoRequest, context: Any
    ) -> info_pb2.GetServerInfoResponse:
        return info_pb2.GetServerInfoResponse(
            service=self._service,
            version=version("step3"),
            uptime_s=time.monotonic() - self._started,
            config_hash=self._config_hash,
            capabilities=self._capabilities(),
        )
