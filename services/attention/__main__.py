"""Run one attention instance: python -m services.attention [--index N]."""

from __future__ import annotations

import argparse
import asyncio
import sys

import torch
from step3.v1 import attention_pb2_grpc

from services.attention.instance import AttentionInstance
from shared.rpc.server import RpcServer, run, serve
from shared.settings import settings


async def main(index: int) -> None:
    torch.set_num_threads(settings().attention.threads or 1)
    tasks: set[asyncio.Task[None]] = set()

    def on_serving(serving: bool) -> None:
        task = asyncio.get_running_loop().create_task(server.set_serving(serving))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    instance = AttentionInstance(settings(), index, on_serving)
    server = RpcServer("attention", settings(), index=index, capabilities=instance.capabilities)
    server.add(
        "step3.v1.AttentionService",
        attention_pb2_grpc.add_AttentionServiceServicer_to_server,
        instance.servicer,
    )
    try:
        await serve(server, instance.load)
    finally:
        instance.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="one attention instance")
    parser.add_argument("--index", type=int, default=0, help="which instance, from 0")
    sys.exit(run("attention", main(parser.parse_args().index)))
