"""Run the vision service: python -m services.vision."""

from __future__ import annotations

import sys

import torch
from step3.v1 import vision_pb2_grpc

from services.vision.service import VisionService
from shared.rpc.server import RpcServer, run, serve
from shared.settings import settings


async def main() -> None:
    torch.set_num_threads(settings().vision.threads)
    service = VisionService(settings())
    server = RpcServer("vision", settings(), capabilities=service.capabilities)
    server.add(
        "step3.v1.VisionService", vision_pb2_grpc.add_VisionServiceServicer_to_server, service
    )
    await serve(server, service.load)


if __name__ == "__main__":
    sys.exit(run("vision", main()))
