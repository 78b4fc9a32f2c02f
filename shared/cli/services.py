"""Which processes make up step3 on one machine, and in what order they start."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from shared.cli.redis import redis_command
from shared.errors import InvalidArgument
from shared.settings import Settings

Probe = Literal["grpc", "redis", "http"]

NAMES = ("redis", "vision", "ffn", "attention", "gateway", "ui")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One process to run.

    Args:
      label: unique on this machine; the name of the log file: "ffn-0".
      command: what to execute.
      address: host:port that it listens on.
      probe: how its readiness is asked.
    """

    label: str
    command: tuple[str, ...]
    address: str
    probe: Probe

    @property
    def name(self) -> str:
        return self.label.split("-", maxsplit=1)[0]


def probe_of(name: str) -> Probe:
    """How the readiness of a service of this name is asked; gRPC health if it is no special one."""
    if name == "redis":
        return "redis"
    return "http" if name == "ui" else "grpc"


def command_of(
    name: str, settings: Settings, *, host: str, index: int | None = None
) -> tuple[str, ...]:
    """The command of one service, by module name: nothing of it is imported here.

    Raises:
      InvalidArgument: there is no such service, or it has no instances.
    """
    if name not in NAMES:
        raise InvalidArgument(
            f"SERVICE = {name!r}: must be one of {', '.join(NAMES)}",
            reason="UNKNOWN_SERVICE",
            field="SERVICE",
        )
    if index is not None and name != "ffn":
        raise InvalidArgument(
            f"--index = {index}: only ffn has several instances",
            reason="BAD_INDEX",
            field="--index",
        )
    if name == "redis":
        return redis_command(host=host, port=settings.port("redis"), home=settings.home)
    module = "ui" if name == "ui" else f"services.{name}"
    arguments = ("--index", str(index or 0)) if name == "ffn" else ()
    return (sys.executable, "-P", "-m", module, *arguments)


def start_order(settings: Settings, *, ui: bool) -> list[list[Service]]:
    """Stages of services: one starts when all of the stage before it are ready."""

    def service(name: str, index: int | None = None) -> Service:
        # Redis has no password: other machines have no business with it.
        host = "127.0.0.1" if name == "redis" else settings.host
        return Service(
            label=name if index is None else f"{name}-{index}",
            command=command_of(name, settings, host=host, index=index),
            address=f"{host}:{settings.port(name, index or 0)}",
            probe=probe_of(name),
        )

    ffns = [service("ffn", index) for index in range(settings.ffn.shards)]
    stages = [
        [service("redis")],
        [service("vision"), *ffns],
        [service("attention")],
        [service("gateway")],
    ]
    if ui:
        stages.append([service("ui")])
    return stages
