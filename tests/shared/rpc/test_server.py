"""Life of a server: health, info, drain, a taken port."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from step3.v1 import attention_pb2, info_pb2, info_pb2_grpc

from shared.errors import FailedPrecondition
from shared.rpc.health import Health, check, check_async
from shared.rpc.server import RpcServer

NAME = "step3.v1.AttentionService"


async def test_health_follows_readiness(server, channels):
    channel = channels.get(server.address)
    assert await check_async(channel) == Health.NOT_SERVING
    await server.set_serving(True)
    assert await check_async(channel) == Health.SERVING
    assert await check_async(channel, NAME) == Health.SERVING
    assert await check_async(channel, "no.such.Service") == Health.UNKNOWN
    await server.set_serving(False)
    assert await check_async(channel, NAME) == Health.NOT_SERVING


async def test_blocking_health_check(server):
    await server.set_serving(True)
    assert await asyncio.to_thread(check, server.address) == Health.SERVING
    assert await asyncio.to_thread(check, "127.0.0.1:1", "", 0.5) == Health.UNREACHABLE


async def test_server_info_answers_before_the_service_is_ready(server, channels):
    stub = info_pb2_grpc.InfoServiceStub(channels.get(server.address))
    info = await stub.GetServerInfo(info_pb2.GetServerInfoRequest(), timeout=5)
    assert info.service == "attention"
    assert info.version
    assert len(info.config_hash) == 64
    assert dict(info.capabilities) == {"device": "cpu"}


async def test_reflection_names_the_services(server, channels):
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    stub = reflection_pb2_grpc.ServerReflectionStub(channels.get(server.address))
    call = stub.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5
    )
    answers = [answer async for answer in call]
    names = {service.name for service in answers[0].list_services_response.service}
    assert {NAME, "step3.v1.InfoService", "grpc.health.v1.Health"} <= names


async def test_drain_finishes_running_streams_and_refuses_new_ones(server, stub, servicer):
    await server.set_serving(True)
    call = stub.GenerateTokens(attention_pb2.GenerateTokensRequest(request_id="long"), timeout=5)
    await servicer.running.wait()
    draining = asyncio.create_task(server.drain())
    tokens = [event.delta.token_ids[0] async for event in call]
    assert tokens == list(range(10))
    await asyncio.wait_for(draining, 5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetLoad(attention_pb2.GetLoadRequest(), timeout=2)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_hurried_drain_cancels_running_streams(server, stub, servicer):
    await server.set_serving(True)
    call = stub.GenerateTokens(attention_pb2.GenerateTokensRequest(request_id="endless"), timeout=9)
    await servicer.running.wait()
    hurry = asyncio.Event()
    draining = asyncio.create_task(server.drain(hurry))
    await asyncio.sleep(0.05)
    hurry.set()
    await asyncio.wait_for(draining, 3)
    await asyncio.wait_for(servicer.cancelled.wait(), 1)
    call.cancel()


async def test_health_watch_sees_the_drain_and_does_not_hold_it_up(server, channels):
    await server.set_serving(True)
    stub = health_pb2_grpc.HealthStub(channels.get(server.address))
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=NAME), timeout=10)
    status = health_pb2.HealthCheckResponse.ServingStatus
    assert (await watch.read()).status == status.SERVING
    started = time.monotonic()
    await server.drain()
    assert time.monotonic() - started < 2
    assert (await watch.read()).status == status.NOT_SERVING
    assert await watch.read() == grpc.aio.EOF


async def test_client_cancel_reaches_the_servicer(server, stub, servicer):
    await server.set_serving(True)
    call = stub.GenerateTokens(attention_pb2.GenerateTokensRequest(request_id="endless"), timeout=9)
    await call.read()
    call.cancel()
    await asyncio.wait_for(servicer.cancelled.wait(), 2)


async def test_second_server_on_a_port_is_refused(server, settings):
    port = int(server.address.rsplit(":", 1)[1])
    with pytest.raises(FailedPrecondition, match=f"127.0.0.1:{port}.*STEP3_PORT_BASE"):
        RpcServer("attention", settings, port=port)


PROCESS = """
import sys
import services
from shared.rpc.server import RpcServer, run, serve
from shared.settings import Settings
async def main():
    async def prepare():
        pass
    await serve(RpcServer("vision", Settings()), prepare)
sys.exit(run("vision", main()))
"""


def _environment(port: int, tmp_path) -> dict[str, str]:
    base = str(port - 1)  # vision listens on the base plus one
    return os.environ | {"STEP3_PORT_BASE": base, "STEP3_HOME": str(tmp_path)}


def test_process_with_a_taken_port_says_so_in_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-c", PROCESS],
            env=_environment(port, tmp_path),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert "STEP3_PORT_BASE" in done.stderr


def test_process_ends_with_status_0_on_sigterm(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS],
        env=_environment(port, tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 20
        while check(f"127.0.0.1:{port}", "", 0.5) != Health.SERVING:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert all(line.startswith("ts=") for line in log.splitlines()), log
    assert "msg=stopped" in log
