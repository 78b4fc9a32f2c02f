"""The services behind the gateway: which instances there are, which of them can work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shared.errors import ResourceExhausted, Unavailable
from shared.rpc.client import Channels
from shared.settings import Settings

logger = logging.getLogger(__name__)

# Between two tries to reach a backend that is away.
_RETRY_S = 0.5
# A state is told again this often, whether or not it has changed.
_REFRESH_S = 1.0

Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class Instance:
    """One process of a backend service."""

    address: str
    channel: grpc.aio.Channel
    serving: bool = False
    calls: int = 0


class Pool:
    """The instances of one service.

    Args:
      name: for people: "attention".
      service: the full proto name whose health is watched.
      instances: of the service.
      changed: is set when an instance comes or goes.
    """

    def __init__(
        self, name: str, service: str, instances: Collection[Instance], changed: asyncio.Event
    ) -> None:
        self.name = name
        self._service = service
        self._instances = instances
        self._changed = changed

    @property
    def serving(self) -> bool:
        return any(instance.serving for instance in self._instances)

    async def attempt(self, work: Callable[[Instance], Awaitable[Result]]) -> Result:
        """Run `work` on the least loaded instance; if that one fails it, once more on another.

        Args:
          work: raises Unavailable or ResourceExhausted only while trying elsewhere does no harm.

        Raises:
          Unavailable: no instance is SERVING.
        """
        able = sorted((i for i in self._instances if i.serving), key=lambda i: i.calls)
        if not able:
            raise Unavailable(
                f"no {self.name} instance is ready; try again in a moment",
                reason="BACKEND_UNAVAILABLE",
                metadata={"backend": self.name},
                retry_after_s=1.0,
            )
        first, *others = able
        try:
            return await self._run(work, first)
        except (Unavailable, ResourceExhausted):
            if not others:
                raise
        return await self._run(work, others[0])

    async def _run(self, work: Callable[[Instance], Awaitable[Result]], on: Instance) -> Result:
        on.calls += 1
        try:
            return await work(on)
        finally:
            on.calls -= 1

    async def watch(self) -> None:
        """Follow the health of every instance until cancelled."""
        async with asyncio.TaskGroup() as group:
            for instance in self._instances:
                group.create_task(self._watch(instance))

    async def _watch(self, instance: Instance) -> None:
        stub = health_pb2_grpc.HealthStub(instance.channel)
        request = health_pb2.HealthCheckRequest(service=self._service)
        while True:
            try:
                async for response in stub.Watch(request):
                    self._set(instance, response.status == health_pb2.HealthCheckResponse.SERVING)
            except grpc.aio.AioRpcError as error:
                logger.debug("%s at %s: %s", self.name, instance.address, error.code().name)
            self._set(instance, False)
            await asyncio.sleep(_RETRY_S)

    def _set(self, instance: Instance, serving: bool) -> None:
        if instance.serving != serving:
            instance.serving = serving
            state = "ready" if serving else "not ready"
            logger.info("%s at %s is %s", self.name, instance.address, state)
            self._changed.set()


class Backends:
    """Vision and attention, as the settings name them."""

    def __init__(self, settings: Settings, channels: Channels) -> None:
        self._changed = asyncio.Event()

        def pool(name: str, service: str) -> Pool:
            addresses = settings.addresses(name)
            instances = [Instance(address, channels.get(address)) for address in addresses]
            return Pool(name, service, instances, self._changed)

        self.vision = pool("vision", "step3.v1.VisionService")
        self.attention = pool("attention", "step3.v1.AttentionService")

    @property
    def ready(self) -> bool:
        return self.vision.serving and self.attention.serving

    async def watch(self) -> None:
        """Keep the state of all instances up to date until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.vision.watch())
            group.create_task(self.attention.watch())

    async def wait_ready(self) -> None:
        """Return once both services have an instance that can work."""
        logger.info("waiting for vision and attention")
        while not self.ready:
            await self._change()

    async def report(self, tell: Callable[[bool], Awaitable[None]]) -> None:
        """Tell readiness at every change, and regularly, until cancelled."""
        while True:
            await tell(self.ready)
            await self._change()

    async def _change(self) -> None:
        try:
            await asyncio.wait_for(self._changed.wait(), _REFRESH_S)
        except TimeoutError:
            return
        self._changed.clear()
