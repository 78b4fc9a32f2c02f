"""Ask a service whether it can answer (grpc.health.v1)."""

from __future__ import annotations

from enum import StrEnum

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shared.rpc.client import open_channel


class Health(StrEnum):
    SERVING = "SERVING"
    NOT_SERVING = "NOT_SERVING"
    # Nobody answered at the address in time.
    UNREACHABLE = "UNREACHABLE"
    # Somebody answered who does not know the service's name.
    UNKNOWN = "UNKNOWN"


def check(address: str, service: str = "", timeout_s: float = 2.0) -> Health:
    """The state of `service` (a full proto name; "" is the whole process) at host:port."""
    with open_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            return _state(stub.Check(request, timeout=timeout_s))
        except grpc.RpcError as error:
            return _failed(error)


async def check_async(
    channel: grpc.aio.Channel, service: str = "", timeout_s: float = 2.0
) -> Health:
    """`check` over an open channel, within an event loop."""
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=service)
    try:
        return _state(await stub.Check(request, timeout=timeout_s))
    except grpc.aio.AioRpcError as error:
        return _failed(error)


def _state(response: health_pb2.HealthCheckResponse) -> Health:
    serving = response.status == health_pb2.HealthCheckResponse.SERVING
    return Health.SERVING if serving else Health.NOT_SERVING


def _failed(error: grpc.RpcError) -> Health:
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    known = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED}
    return Health.UNKNOWN if error.code() in known else Health.UNREACHABLE
