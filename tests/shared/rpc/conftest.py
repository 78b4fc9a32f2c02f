from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from step3.v1 import attention_pb2, attention_pb2_grpc

from shared.errors import InvalidArgument, ResourceExhausted
from shared.rpc.client import Channels
from shared.rpc.server import RpcServer
from shared.settings import Settings


class Scripted(attention_pb2_grpc.AttentionServiceServicer):
    """Fails or streams as the request's id says."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.running = asyncio.Event()

    async def GetLoad(self, request, context):
        raise RuntimeError("the secret is swordfish")

    async def GenerateTokens(self, request, context):
        self.running.set()
        match request.request_id:
            case "field":
                raise InvalidArgument(
                    "token_ids is empty: send a prompt",
                    reason="PROMPT_EMPTY",
                    field="token_ids",
                    metadata={"tokens": "0"},
                )
            case "full":
                raise ResourceExhausted("the queue is full", reason="QUEUE_FULL", retry_after_s=1.5)
            case "bug":
                yield attention_pb2.GenerateTokensResponse()
                raise KeyError("swordfish")
        try:
            for i in range(10):
                await asyncio.sleep(0.05)
                delta = attention_pb2.TokenDelta(token_ids=[i])
                yield attention_pb2.GenerateTokensResponse(delta=delta)
            if request.request_id == "endless":
                await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def servicer() -> Scripted:
    return Scripted()


@pytest.fixture
async def server(settings: Settings, servicer: Scripted) -> AsyncIterator[RpcServer]:
    server = RpcServer("attention", settings, port=0, capabilities=lambda: {"device": "cpu"})
    server.add(
        "step3.v1.AttentionService",
        attention_pb2_grpc.add_AttentionServiceServicer_to_server,
        servicer,
    )
    await server.start()
    yield server
    hurry = asyncio.Event()
    hurry.set()
    await server.drain(hurry)


@pytest.fixture
async def channels() -> AsyncIterator[Channels]:
    async with Channels() as channels:
        yield channels


@pytest.fixture
def stub(server: RpcServer, channels: Channels) -> attention_pb2_grpc.AttentionServiceStub:
    return attention_pb2_grpc.AttentionServiceStub(channels.get(server.address))
