"""docker-compose.yml: valid, whole, and each of its commands executed outside a container."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROFILES = ("cpu", "gpu")


def of_profile(profile: str) -> dict[str, dict[str, Any]]:
    return {name: service for name, service in SERVICES.items() if profile in service["profiles"]}


def names_on_network(name: str) -> list[str]:
    networks = SERVICES[name].get("networks", {})
    return [name, *networks.get("default", {}).get("aliases", [])]


def interpolated(text: str) -> str:
    """`${NAME:-default}` as Compose reads it with nothing set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_follows_the_compose_specification() -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    result = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", ROOT / "docker-compose.yml"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("profile", PROFILES)
def test_profile_has_each_service_once(profile: str) -> None:
    commands = sorted(" ".join(service["command"]) for service in of_profile(profile).values())
    assert commands == [
        "serve attention",
        "serve ffn --index 0",
        "serve ffn --index 1",
        "serve gateway",
        "serve redis",
        "serve ui",
        "serve vision",
    ]


@pytest.mark.parametrize("profile", PROFILES)
def test_profile_has_its_dependencies(profile: str) -> None:
    services = of_profile(profile)
    for name, service in services.items():
        for dependency, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_healthy"
            assert dependency in services or how.get("required") is False, (name, dependency)
    gateway = [name for name in services["gateway"]["depends_on"] if name in services]
    assert {"vision", "attention"} <= {
        alias for name in gateway for alias in names_on_network(name)
    }


@pytest.mark.parametrize("profile", PROFILES)
def test_addresses_reach_a_service_of_the_profile(profile: str) -> None:
    hosts = {alias for name in of_profile(profile) for alias in names_on_network(name)}
    for service in of_profile(profile).values():
        for variable, value in service["environment"].items():
            if variable.startswith("STEP3_ADDRESS_"):
                assert {part.split(":")[0] for part in value.split(",")} <= hosts


def test_published_ports_are_unique_and_local() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert len({port.split(":")[1] for port in ports}) == len(ports)
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_gpus_are_reserved_in_the_gpu_profile_alone() -> None:
    for name, service in SERVICES.items():
        reserved = service.get("deploy", {}).get("resources", {}).get("reservations", {})
        assert bool(reserved.get("devices")) == name.endswith("-gpu")


def test_image_does_not_run_as_root() -> None:
    users = re.findall(r"^USER (\w+)", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert users[-1:] == ["step3"]


class Outside:
    """Commands of the compose file, on loopback ports of this machine."""

    def __init__(self, home: Path, port_base: int) -> None:
        self.home = home
        self.base = port_base
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def here(self, text: str) -> str:
        """A host:port of the compose network as one of this machine."""
        return re.sub(r"([\w.-]+):73(\d\d)", lambda m: f"127.0.0.1:{self.base + int(m[2])}", text)

    def environment(self, service: dict[str, Any]) -> dict[str, str]:
        model = ROOT / "models" / "nano"
        if not model.exists():
            model = ROOT / "tests" / "data" / "step3-tiny"
        mapped = {name: self.here(interpolated(v)) for name, v in service["environment"].items()}
        own = {name: value for name, value in os.environ.items() if not name.startswith("STEP3_")}
        return (
            own
            | mapped
            | {
                "STEP3_HOST": "127.0.0.1",
                "STEP3_PORT_BASE": str(self.base),
                "STEP3_HOME": str(self.home),
                "STEP3_MODEL": str(model),
                "OMP_NUM_THREADS": "1",
            }
        )

    def command(self, arguments: list[str]) -> list[str]:
        return [sys.executable, "-P", "-m", "shared.cli", *map(self.here, arguments)]

    def start(self, name: str) -> None:
        service = SERVICES[name]
        with (self.home / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                self.command(service["command"]),
                env=self.environment(service),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_healthy(self, name: str) -> None:
        kind, program, *arguments = SERVICES[name]["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "/app/step3")
        deadline = time.monotonic() + 90
        while True:
            check = subprocess.run(
                self.command(arguments),
                env=self.environment(SERVICES[name]),
                capture_output=True,
                timeout=30,
                check=False,
            )
            if check.returncode == 0:
                return
            log = (self.home / f"{name}.log").read_text()
            assert self.processes[name].poll() is None, f"{name} ended:\n{log}"
            assert time.monotonic() < deadline, f"{name} is not healthy:\n{log}"
            time.sleep(0.3)

    def stop_all(self) -> dict[str, int]:
        statuses = {}
        for name, process in reversed(self.processes.items()):
            process.terminate()
            try:
                statuses[name] = process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                statuses[name] = process.wait(10)
        return statuses


@pytest.fixture
def outside(tmp_path: Path, free_port_base: Callable[[], int]) -> Iterator[Outside]:
    outside = Outside(tmp_path, free_port_base())
    yield outside
    outside.stop_all()


def in_dependency_order(services: dict[str, dict[str, Any]]) -> list[str]:
    order: list[str] = []
    while len(order) < len(services):
        ready = [
            name
            for name, service in services.items()
            if name not in order
            and all(d in order for d in service.get("depends_on", {}) if d in services)
        ]
        assert ready, "the dependencies form a circle"
        order += ready
    return order


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_command_runs_and_becomes_healthy(outside: Outside) -> None:
    """Those of the gpu profile are the same commands and checks, on machines with a GPU."""
    for name, service in of_profile("gpu").items():
        twin = SERVICES[name.removesuffix("-gpu")]
        assert service["command"] == twin["command"]
        assert service["healthcheck"] == twin["healthcheck"]
    for name in in_dependency_order(of_profile("cpu")):
        outside.start(name)
        outside.wait_healthy(name)
    statuses = outside.stop_all()
    # uvicorn, under the console, ends by the signal that it drained for.
    assert statuses.pop("ui") in (0, -signal.SIGTERM)
    assert set(statuses.values()) == {0}, statuses
