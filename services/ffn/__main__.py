"""Run one FFN shard: python -m services.ffn [--index RANK]."""

from __future__ import annotations

import argparse
import sys

import torch
from step3.v1 import dataplane_pb2_grpc

from services.ffn.service import FfnService
from shared.rpc.server import RpcServer, run, serve
from shared.settings import settings


async def main(index: int) -> None:
    torch.set_num_threads(settings().ffn.threads or 1)
    service = FfnService(settings(), index)
    server = RpcServer("ffn", settings(), index=index, capabilities=service.capabilities)
    server.add(
        "step3.v1.DataPlaneService",
        dataplane_pb2_grpc.add_DataPlaneServiceServicer_to_server,
        service.servicer,
    )
    try:
        await serve(server, service.load)
    finally:
        service.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="one FFN shard")
    parser.add_argument("--index", type=int, default=0, help="which shard, from 0")
    sys.exit(run("ffn", main(parser.parse_args().index)))
