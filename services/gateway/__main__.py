"""Run the gateway: python -m services.gateway."""

from __future__ import annotations

import asyncio
import sys

from step3.v1 import chat_pb2_grpc

from services.gateway.backends import Backends
from services.gateway.service import ChatService
from shared.rpc.client import Channels
from shared.rpc.server import RpcServer, run, serve
from shared.settings import settings


async def main() -> None:
    async with Channels() as channels:
        backends = Backends(settings(), channels)
        service = ChatService(settings(), backends)
        server = RpcServer("gateway", settings(), capabilities=service.capabilities)
        server.add("step3.v1.ChatService", chat_pb2_grpc.add_ChatServiceServicer_to_server, service)
        tasks = [asyncio.create_task(backends.watch())]

        async def prepare() -> None:
            await backends.wait_ready()
            tasks.append(asyncio.create_task(backends.report(server.set_serving)))

        try:
            await serve(server, prepare)
        finally:
            for task in tasks:
                task.cancel()


if __name__ == "__main__":
    sys.exit(run("gateway", main()))
