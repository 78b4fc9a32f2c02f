from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from step3.v1 import vision_pb2_grpc

from services.vision.service import VisionService
from shared.rpc.client import Channels
from shared.rpc.server import RpcServer
from shared.settings import GatewaySettings, Settings, VisionSettings

TINY = Path(__file__).parents[2] / "data" / "step3-tiny"


def formula_png(width: int, height: int) -> bytes:
    """The picture of the vectors: channel c at (x, y) is (3x + 5y + 40c + xy // 64) mod 256."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    channels = [(3 * x + 5 * y + 40 * c + x * y // 64) % 256 for c in range(3)]
    buffer = io.BytesIO()
    Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def png() -> Callable[[int, int], bytes]:
    return formula_png


@pytest.fixture
def tiny() -> Path:
    return TINY


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path,
        model=TINY,
        gateway=GatewaySettings(max_image_bytes=1_000_000, max_image_pixels=1_000_000),
        vision=VisionSettings(max_crops=8),
    )


@pytest.fixture
async def service(settings: Settings) -> VisionService:
    service = VisionService(settings)
    await service.load()
    return service


@pytest.fixture
async def stub(
    settings: Settings, service: VisionService
) -> AsyncIterator[vision_pb2_grpc.VisionServiceStub]:
    server = RpcServer("vision", settings, port=0, capabilities=service.capabilities)
    server.add(
        "step3.v1.VisionService", vision_pb2_grpc.add_VisionServiceServicer_to_server, service
    )
    await server.start()
    await server.set_serving(True)
    async with Channels() as channels:
        yield vision_pb2_grpc.VisionServiceStub(channels.get(server.address))
    hurry = asyncio.Event()
    hurry.set()
    await server.drain(hurry)
