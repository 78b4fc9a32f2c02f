"""The commands as a user runs them, over stand-ins for the gRPC services and a real Redis."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FAKE = Path(__file__).with_name("fake_service.py")
GRPC_SERVICES = ("vision", "ffn", "attention", "gateway")


class Cli:
    """`./step3` with a home and ports of its own."""

    def __init__(self, home: Path, services: Path, port_base: int) -> None:
        self.home = home
        self.port_base = port_base
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("STEP3_")},
            "STEP3_HOME": str(home),
            "STEP3_PORT_BASE": str(self.port_base),
            # Modules of this folder come before the project's.
            "PYTHONPATH": str(services),
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-P", "-m", "shared.cli", *arguments]

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def status(self) -> dict[str, Any]:
        return json.loads(self("status", "--json").stdout)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a stand-in for each gRPC service under its module name."""
    folder = tmp_path_factory.mktemp("services")
    for name in GRPC_SERVICES:
        package = folder / "services" / name
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(
            f"import runpy, sys\nsys.argv.insert(1, {name!r})\nrunpy.run_path({str(FAKE)!r})\n"
        )
    (folder / "services" / "__init__.py").touch()
    trainer = folder / "services" / "trainer"
    trainer.mkdir()
    (trainer / "__init__.py").touch()
    (trainer / "__main__.py").write_text(
        "import json, sys\nprint(json.dumps(sys.argv[1:]))\nsys.exit(len(sys.argv) % 2)\n"
    )
    return folder


@pytest.fixture
def cli(tmp_path: Path, services: Path, free_port_base: Callable[[], int]) -> Iterator[Cli]:
    cli = Cli(tmp_path / "home", services, free_port_base())
    yield cli
    cli("down")


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, services: Path, free_port_base: Callable[[], int]
) -> Iterator[Cli]:
    """One run with two FFN shards that several tests look at and none stops."""
    cli = Cli(tmp_path_factory.mktemp("home"), services, free_port_base())
    result = cli("up", "--detach", "--no-ui", "--ffn", "2")
    assert result.returncode == 0, result.stderr
    yield cli
    assert cli("down").returncode == 0


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_status_tells_what_runs_and_what_it_says(running: Cli) -> None:
    report = running.status()
    assert report["phase"] == "ready"
    assert report["options"]["ffn"] == 2
    by_label = {service["service"]: service for service in report["services"]}
    assert list(by_label) == ["redis", "vision", "ffn-0", "ffn-1", "attention", "gateway"]
    assert all(service["state"] == "ready" for service in by_label.values())
    assert all(is_alive(service["pid"]) for service in by_label.values())
    assert all(service["memory_bytes"] > 2**20 for service in by_label.values())
    assert by_label["ffn-1"]["capabilities"]["shard"] == "1/2"
    assert by_label["ffn-1"]["address"] == f"127.0.0.1:{running.port_base + 31}"
    table = running("status")
    assert table.returncode == 0
    assert "attention" in table.stdout


def test_second_up_says_so(running: Cli) -> None:
    again = running("up", "--detach", "--no-ui", "--ffn", "2")
    assert again.returncode == 0
    assert "is up already" in again.stderr
    assert f"127.0.0.1:{running.port_base} (gRPC)" in again.stderr
    other = running("up", "--detach", "--no-ui", "--ffn", "1")
    assert other.returncode == 1
    assert other.stderr.startswith("error: step3 is up already with other options (ffn is 2 and")


def test_chat_prints_one_json_object(running: Cli, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(b"123456789")
    result = running("chat", "hello", "--image", str(image), "--json", "--seed", "4")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["reasoning"] == "think of hello"
    assert answer["content"] == "heard hello, 9 bytes, seed 4"
    assert answer["finish_reason"] == "stop"
    assert answer["tool_calls"] == []
    assert answer["usage"]["prompt_tokens"] == 5
    assert answer["usage"]["total_tokens"] == 12
    assert answer["timings"]["total_ms"] == 12.5
    assert (answer["request_id"], answer["model"]) == ("r1", "fake")


def test_chat_streams_thinking_then_answer_then_usage(running: Cli) -> None:
    result = running("chat", "hello")
    assert result.stdout == "think of hello\n\nheard hello, 0 bytes, seed 0\n"
    assert "5 prompt tokens" in result.stderr
    assert result.stderr.rstrip().endswith("100.0 tokens/s, stop")


def test_refusal_of_the_gateway_is_its_sentence(running: Cli) -> None:
    result = running("chat", "", "--json")
    assert result.returncode == 2
    assert json.loads(result.stdout)["error"] == {
        "code": "INVALID_ARGUMENT",
        "reason": "EMPTY",
        "message": "messages[0]: is empty; write something",
        "field": "messages[0]",
    }
    assert result.stderr == "error: messages[0]: is empty; write something\n"


def test_unreadable_image_is_misuse(running: Cli) -> None:
    result = running("chat", "hello", "--image", "/no/such.png")
    assert result.returncode == 2
    assert result.stderr.startswith("error: --image = '/no/such.png': cannot be read")
    assert result.stdout == ""


def test_health_asks_each_protocol(running: Cli) -> None:
    gateway = f"127.0.0.1:{running.port_base}"
    redis = f"127.0.0.1:{running.port_base + 3}"
    assert running("health", "--addr", gateway).returncode == 0
    assert running("health", "--addr", redis, "--service", "redis").returncode == 0
    wrong = running("health", "--addr", gateway, "--service", "redis")
    assert wrong.returncode == 1
    assert wrong.stderr == f"error: redis at {gateway} is not ready: see its log\n"
    assert running("health", "--addr", gateway, "--service", "no.such.Service").returncode == 1


def test_logs_show_a_service_or_all(running: Cli) -> None:
    assert running("logs", "ffn-1").stdout == "ffn 1 listens\n"
    both = running("logs", "ffn").stdout
    assert both == "ffn-0 | ffn 0 listens\nffn-1 | ffn 1 listens\n"
    assert "gateway    | gateway 0 listens" in running("logs").stdout
    unknown = running("logs", "nothing")
    assert unknown.returncode == 2
    assert "there are: attention, ffn-0, ffn-1, gateway, redis" in unknown.stderr


def test_killed_service_comes_back_and_down_leaves_nothing(cli: Cli) -> None:
    assert cli("up", "--detach", "--no-ui").returncode == 0
    report = cli.status()
    pids = [service["pid"] for service in report["services"]]
    attention = next(s for s in report["services"] if s["service"] == "attention")
    os.kill(attention["pid"], signal.SIGKILL)

    def is_back() -> bool:
        now = next(s for s in cli.status()["services"] if s["service"] == "attention")
        return now["state"] == "ready" and now["restarts"] == 1

    wait_until(is_back)
    assert (
        "attention: was ended by signal 9 (Killed); restarting in 0.5 s"
        in cli("logs", "supervisor").stdout
    )
    pids += [service["pid"] for service in cli.status()["services"]]
    down = cli("down")
    assert (down.returncode, down.stderr) == (0, "step3 is down\n")
    assert not any(is_alive(pid) for pid in [report["pid"], *pids])
    assert not (cli.home / "run" / "state.json").exists()
    stopped = cli("status", "--json")
    assert stopped.returncode == 1
    assert json.loads(stopped.stdout) == {"phase": "stopped", "services": []}
    assert cli("down").returncode == 0


def test_killed_supervisor_takes_all_along_and_its_state_is_cleaned(cli: Cli) -> None:
    assert cli("up", "--detach", "--no-ui").returncode == 0
    report = cli.status()
    os.kill(report["pid"], signal.SIGKILL)
    pids = [report["pid"], *(service["pid"] for service in report["services"])]
    wait_until(lambda: not any(is_alive(pid) for pid in pids))
    assert (cli.home / "run" / "state.json").exists()
    assert cli.status()["phase"] == "stopped"
    assert not (cli.home / "run" / "state.json").exists()
    assert cli("up", "--detach", "--no-ui").returncode == 0


def test_foreground_up_ends_with_a_signal(cli: Cli) -> None:
    process = subprocess.Popen(
        cli.command("up", "--no-ui"), env=cli.environment, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "Ctrl-C stops it" in line:
            break
    pids = [service["pid"] for service in cli.status()["services"]]
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(20) == 0
    assert any(line == "ffn-0      | ffn 0 listens\n" for line in lines)
    assert [line.split()[0] for line in rest.splitlines() if line.endswith("| stopped")][
        -1
    ] == "redis"
    assert not any(is_alive(pid) for pid in pids)


def test_failed_service_is_named_with_its_own_sentence(cli: Cli, tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "services"
    for name in ("", *GRPC_SERVICES):
        (broken / name).mkdir(parents=True, exist_ok=True)
        (broken / name / "__init__.py").touch()
    for name in GRPC_SERVICES:
        code = "import sys\nsys.exit('error: STEP3_MODEL = /nowhere: there is no such folder')\n"
        (broken / name / "__main__.py").write_text(code)
    result = cli("up", "--detach", "--no-ui", PYTHONPATH=str(broken.parent))
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert result.stderr.endswith(": STEP3_MODEL = /nowhere: there is no such folder\n")
    assert "Traceback" not in result.stderr
    assert cli.status() == {"phase": "stopped", "services": []}


def test_taken_port_is_named_with_its_holder(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", cli.port_base + 1)):
        result = cli("up", "--detach", "--no-ui")
    assert result.returncode == 1
    holder = f"{Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()})"
    assert result.stderr == (
        f"error: port {cli.port_base + 1} of vision is taken by {holder}: stop that, or move all "
        f"ports of step3 with STEP3_PORT_BASE (now {cli.port_base})\n"
    )
    assert not (cli.home / "logs" / "vision.log").exists(), "nothing was started"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["serve", "nothing"], "SERVICE = 'nothing': must be one of redis, vision, ffn,"),
        (["serve", "vision", "--index", "1"], "--index = 1: only ffn has several instances"),
        (["bench", "nothing"], "NAME = 'nothing': is no benchmark; there are: "),
    ],
)
def test_misuse_is_one_sentence(cli: Cli, arguments: list[str], sentence: str) -> None:
    result = cli(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {sentence}")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "pretrain", "r.yaml"],
        ["train", "sft", "r.yaml", "--resume", "nano-sft"],
        ["eval", "models/nano", "--suite", "all", "--json"],
    ],
)
def test_training_commands_reach_the_trainer_unchanged(cli: Cli, arguments: list[str]) -> None:
    """The stand-in prints its arguments and exits with a status made of their number."""
    expected = arguments if arguments[0] == "eval" else arguments[1:]
    result = cli(*arguments)
    assert json.loads(result.stdout) == expected, result.stderr
    assert result.returncode == (len(expected) + 1) % 2


def test_unknown_training_is_misuse(cli: Cli) -> None:
    result = cli("train", "distil", "r.yaml")
    assert result.returncode == 2
    assert "distil" in result.stderr


def test_bad_setting_names_its_variable(cli: Cli) -> None:
    result = cli("status", "--json", STEP3_PORT_BASE="x")
    assert result.returncode == 2
    assert json.loads(result.stdout)["error"]["field"] == "STEP3_PORT_BASE"
    assert result.stderr.startswith("error: STEP3_PORT_BASE = 'x': ")


def test_chat_without_a_gateway_says_how_to_start_one(cli: Cli) -> None:
    result = cli("chat", "hello")
    assert result.returncode == 1
    assert result.stderr == (
        f"error: no gateway answers at 127.0.0.1:{cli.port_base}: start it with ./step3 up, or set "
        "STEP3_ADDRESS_GATEWAY to where it runs\n"
    )


def test_help_is_quick_and_imports_nothing_heavy(cli: Cli) -> None:
    code = (
        "import sys; from shared.cli import app; "
        "print([m for m in ('torch', 'grpc', 'gradio', 'pydantic') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
    assert "./step3 up --detach" in cli("--help").stdout


def test_services_go_on_when_the_reader_of_the_output_is_gone(cli: Cli) -> None:
    process = subprocess.Popen(
        cli.command("up", "--no-ui"), env=cli.environment, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    process.stderr.readline()
    process.stderr.close()
    wait_until(lambda: cli.status()["phase"] == "ready")
    assert cli("down").returncode == 0
    assert process.wait(20) == 0
