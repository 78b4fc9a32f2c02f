"""The supervisor with real child processes: order, restarts, drains, and nobody left behind."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.cli.keeper import Limits
from shared.cli.services import Service
from shared.cli.state import RunState, read_state
from shared.cli.supervisor import Supervisor
from shared.errors import Unavailable

SCRIPT = Path(__file__).with_name("scripted_service.py")
LIMITS = Limits(start_s=15, grace_s=0.5, backoff_s=0.05, max_backoff_s=0.2, poll_s=0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def scripted(label: str, *arguments: str) -> Service:
    port = free_port()
    return Service(
        label=label,
        command=(sys.executable, str(SCRIPT), "--port", str(port), *arguments),
        address=f"127.0.0.1:{port}",
        probe="grpc",
    )


class Run:
    """A supervisor in this process, and what it said."""

    def __init__(self, home: Path, *stages: list[Service], limits: Limits = LIMITS) -> None:
        self.home = home
        self.state = RunState(pid=os.getpid(), started_at=time.time(), options={})
        self.told: list[tuple[str, str]] = []
        self.echoed: list[tuple[str, str]] = []
        self.ready = asyncio.Event()
        self.supervisor = Supervisor(
            stages,
            home=home,
            state=self.state,
            tell=lambda label, line: self.told.append((label, line)),
            echo=lambda label, line: self.echoed.append((label, line)),
            limits=limits,
        )

    async def run(self) -> None:
        await self.supervisor.run(self.ready.set)

    def said(self, label: str, part: str) -> bool:
        return any(who == label and part in line for who, line in self.told)


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


def is_alive(pid: int | None) -> bool:
    assert pid is not None
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_starts_in_order_and_drains_in_reverse(tmp_path: Path) -> None:
    run = Run(tmp_path, [scripted("first")], [scripted("second-0"), scripted("second-1")])
    task = asyncio.create_task(run.run())
    await asyncio.wait_for(run.ready.wait(), 20)
    written = read_state(tmp_path)
    assert written is not None
    assert written.phase == "ready"
    assert [service.condition for service in written.services] == ["ready"] * 3
    pids = [service.pid for service in run.state.services]
    assert all(is_alive(pid) for pid in pids)
    assert ("first", f"listening on {run.state.services[0].address.split(':')[1]}") in run.echoed

    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(task, 10)
    readied = [label for label, line in run.told if line.startswith("ready")]
    stopped = [label for label, line in run.told if line == "stopped"]
    assert readied[0] == "first"
    assert stopped[-1] == "first"
    assert len(stopped) == 3
    assert not any(is_alive(pid) for pid in pids)
    assert read_state(tmp_path) is None


async def test_crashed_service_is_restarted_with_back_off(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    run = Run(tmp_path, [scripted("flaky", "--starts", str(starts), "--crashes", "2")])
    task = asyncio.create_task(run.run())
    await until(lambda: run.state.services[0].restarts == 2)
    await until(lambda: run.state.services[0].condition == "ready")
    assert run.said("flaky", "ended with status 3; restarting in 0.05 s")
    assert run.said("flaky", "ended with status 3; restarting in 0.1 s")
    assert len(starts.read_text().splitlines()) == 3
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.wait_for(task, 10)


async def test_service_that_keeps_crashing_is_given_up(tmp_path: Path) -> None:
    limits = Limits(
        start_s=15, grace_s=0.5, backoff_s=0.01, max_backoff_s=0.01, poll_s=0.02, max_crashes=2
    )
    run = Run(tmp_path, [scripted("healthy")], [scripted("doomed", "--starts", str(tmp_path / "n"),
              "--crashes", "9")], limits=limits)  # fmt: skip
    task = asyncio.create_task(run.run())
    await until(lambda: run.state.services[1].condition == "given up")
    assert run.said("doomed", "given up after 2 crashes within 60 s")
    assert run.state.services[1].pid is None
    assert is_alive(run.state.services[0].pid), "the others are not disturbed"
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.wait_for(task, 10)


async def test_killed_service_is_named_by_its_signal(tmp_path: Path) -> None:
    run = Run(tmp_path, [scripted("victim")])
    task = asyncio.create_task(run.run())
    await asyncio.wait_for(run.ready.wait(), 20)
    first = run.state.services[0].pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: run.state.services[0].condition == "ready" and
                run.state.services[0].pid not in (None, first))  # fmt: skip
    assert run.said("victim", "was ended by signal 9 (Killed); restarting")
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.wait_for(task, 10)


async def test_failed_start_says_the_services_own_sentence_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    run = Run(
        tmp_path,
        [scripted("first")],
        [scripted("broken", "--fail", "--model = /nowhere: is no folder")],
    )
    with pytest.raises(Unavailable, match=r"^broken: --model = /nowhere: is no folder$"):
        await asyncio.wait_for(run.run(), 20)
    assert not run.ready.is_set()
    written = read_state(tmp_path)
    assert written is not None
    assert (written.phase, written.failed) == ("failed", "broken")
    assert run.said("first", "stopped")
    assert all(service.pid is None for service in written.services)


async def test_slow_start_is_a_failure(tmp_path: Path) -> None:
    mute = Service(
        label="mute", command=("sleep", "60"), address=f"127.0.0.1:{free_port()}", probe="grpc"
    )
    limits = Limits(start_s=0.3, grace_s=0.5, poll_s=0.02)
    with pytest.raises(Unavailable, match=r"mute was not ready after 0\.3 s"):
        await asyncio.wait_for(Run(tmp_path, [mute], limits=limits).run(), 20)


async def test_missing_program_is_one_sentence(tmp_path: Path) -> None:
    absent = Service(
        label="absent", command=("/no/such/program",), address="127.0.0.1:1", probe="grpc"
    )
    with pytest.raises(Unavailable, match="absent: /no/such/program cannot be started: No such"):
        await asyncio.wait_for(Run(tmp_path, [absent], limits=LIMITS).run(), 20)


async def test_deaf_service_is_killed_after_the_grace(tmp_path: Path) -> None:
    run = Run(tmp_path, [scripted("deaf", "--ignore-sigterm")])
    task = asyncio.create_task(run.run())
    await asyncio.wait_for(run.ready.wait(), 20)
    pid = run.state.services[0].pid
    began = time.monotonic()
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.wait_for(task, 10)
    assert time.monotonic() - began >= LIMITS.grace_s
    assert run.said("deaf", "did not stop: killed")
    assert not is_alive(pid)


async def test_second_signal_kills_at_once(tmp_path: Path) -> None:
    patient = Limits(start_s=15, grace_s=60, poll_s=0.02)
    run = Run(tmp_path, [scripted("deaf", "--ignore-sigterm")], limits=patient)
    task = asyncio.create_task(run.run())
    await asyncio.wait_for(run.ready.wait(), 20)
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(0.1)
    assert not task.done()
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.wait_for(task, 5)
    assert not is_alive(run.state.services[0].pid or 0)


async def test_children_of_a_service_end_with_it(tmp_path: Path) -> None:
    """A service that dies leaves a child in its process group: it is ended, too."""
    pid_file = tmp_path / "grandchild"
    command = f"sleep 60 & echo $! > {pid_file}; exit 4"
    parent = Service(
        label="parent", command=("sh", "-c", command), address="127.0.0.1:1", probe="grpc"
    )
    with pytest.raises(Unavailable, match="parent ended with status 4 before it was ready"):
        await asyncio.wait_for(Run(tmp_path, [parent]).run(), 20)
    await until(lambda: not is_alive(int(pid_file.read_text())), 5)


def test_no_service_survives_a_killed_supervisor(tmp_path: Path) -> None:
    stage = scripted("orphan", "--ignore-sigterm")
    program = f"""
import asyncio, os, time
from pathlib import Path
from shared.cli.services import Service
from shared.cli.state import RunState
from shared.cli.supervisor import Supervisor
service = Service(
    label="orphan", command={stage.command!r}, address={stage.address!r}, probe="grpc"
)
state = RunState(pid=os.getpid(), started_at=time.time(), options={{}})
supervisor = Supervisor([[service]], home=Path({str(tmp_path)!r}), state=state,
                        tell=lambda *_: None, echo=None)
asyncio.run(supervisor.run(lambda: print("ready", flush=True)))
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        pid = json.loads((tmp_path / "run" / "state.json").read_text())["services"][0]["pid"]
        assert is_alive(pid)
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
    deadline = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(pid)
