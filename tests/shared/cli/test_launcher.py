"""The launcher in a sandbox: a PATH of our own and a Python that only notes what it is asked."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TOOLS = (
    "sh",
    "readlink",
    "dirname",
    "cksum",
    "cat",
    "df",
    "awk",
    "grep",
    "tail",
    "mktemp",
    "rm",
    "mkdir",
    "mv",
    "cp",
    "flock",
    "sleep",
)

FAKE_PYTHON = """#!/bin/sh
echo "$(basename "$0"): $*" >>"$FAKE/calls"
case $1 in
    --version) echo "Python 3.12.0" ;;
    -c)
        case $2 in
            *version_info*) [ ! -e "$FAKE/old-$(basename "$0")" ] ;;
            *ensurepip*) [ ! -e "$FAKE/no-venv" ] ;;
        esac
        ;;
    -P)
        [ "$3" = shared.cli ] && { shift 3; echo "cli: $*"; exit 0; }
        [ ! -e "$FAKE/no-compiler" ]
        ;;
    -m)
        case "$2 $3" in
            "venv --clear") rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
            "pip --version") ;;
            pip*)
                echo "some progress"
                if [ -e "$FAKE/slow" ]; then touch "$FAKE/installing"; sleep 30; fi
                if [ -e "$FAKE/fail" ]; then cat "$FAKE/fail" >&2; exit 1; fi
                sleep 0.2
                ;;
        esac
        ;;
esac
"""


class Sandbox:
    """A copy of the launcher and what it reads, and the programs that it may find."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "checkout"
        self.bin = folder / "bin"
        self.fake = folder / "fake"
        for path in (self.root, self.bin, self.fake):
            path.mkdir()
        for name in ("step3", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root / name)
        for tool in (*TOOLS, "basename", "touch"):
            found = shutil.which(tool)
            assert found is not None, tool
            (self.bin / tool).symlink_to(found)
        self.environment = {"PATH": str(self.bin), "FAKE": str(self.fake)}

    def add_python(self, name: str = "python3.12") -> None:
        (self.bin / name).write_text(FAKE_PYTHON)
        (self.bin / name).chmod(0o755)

    def popen(self, *arguments: str, program: Path | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(program or self.root / "step3"), *arguments],
            env=self.environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, program: Path | None = None) -> tuple[int, str, str]:
        process = self.popen(*arguments, program=program)
        stdout, stderr = process.communicate(timeout=30)
        return process.returncode, stdout, stderr

    def calls(self, part: str) -> list[str]:
        return [line for line in (self.fake / "calls").read_text().splitlines() if part in line]


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


def test_installs_once_and_hands_over(sandbox: Sandbox) -> None:
    sandbox.add_python()
    status, stdout, stderr = sandbox.run("chat", "two words", "--json")
    assert (status, stdout) == (0, "cli: chat two words --json\n")
    assert "making" in stderr
    assert "some progress" in stderr, "progress belongs to stderr"
    (install,) = sandbox.calls("pip --disable")
    assert install.endswith(f"-c {sandbox.root}/constraints.txt -e {sandbox.root}")
    assert sandbox.run("status") == (0, "cli: status\n", "")
    assert len(sandbox.calls("pip --disable")) == 1


def test_works_through_a_symlink(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.add_python()
    (tmp_path / "elsewhere").mkdir()
    first, second = tmp_path / "elsewhere" / "one", tmp_path / "elsewhere" / "two"
    first.symlink_to("../checkout/step3")
    second.symlink_to(first)
    assert sandbox.run("status", program=second)[:2] == (0, "cli: status\n")
    assert (sandbox.root / ".venv" / "bin" / "python").exists()


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_requirements_are_installed(sandbox: Sandbox, name: str) -> None:
    sandbox.add_python()
    sandbox.run("status")
    with (sandbox.root / name).open("a") as file:
        file.write("# changed\n")
    assert sandbox.run("status")[0] == 0
    assert len(sandbox.calls("pip --disable")) == 2
    assert len(sandbox.calls("venv --clear")) == 1


def test_test_brings_the_tools_of_developers(sandbox: Sandbox) -> None:
    sandbox.add_python()
    assert sandbox.run("test", "--fast")[:2] == (0, "cli: test --fast\n")
    assert sandbox.calls("pip --disable")[0].endswith(f"-e {sandbox.root}[dev]")
    sandbox.run("status")
    sandbox.run("test")
    assert len(sandbox.calls("pip --disable")) == 1


def test_interrupted_install_resumes(sandbox: Sandbox) -> None:
    sandbox.add_python()
    (sandbox.fake / "slow").touch()
    process = sandbox.popen("status")
    deadline = time.monotonic() + 20
    while not (sandbox.fake / "installing").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)
    assert not list((sandbox.root / ".venv").glob(".installed-*"))
    (sandbox.fake / "slow").unlink()
    status, stdout, stderr = sandbox.run("status")
    assert (status, stdout) == (0, "cli: status\n")
    assert "waiting for another" not in stderr, "the lock of a dead launcher is free"
    assert len(sandbox.calls("venv --clear")) == 1, "what was made before is kept"


def test_two_launchers_install_once(sandbox: Sandbox) -> None:
    sandbox.add_python()
    processes = [sandbox.popen("status") for _ in range(2)]
    outputs = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [stdout for stdout, _ in outputs] == ["cli: status\n"] * 2
    assert len(sandbox.calls("pip --disable")) == 1
    assert sum("waiting for another installation" in stderr for _, stderr in outputs) == 1


def test_moved_checkout_is_made_anew(sandbox: Sandbox) -> None:
    sandbox.add_python()
    sandbox.run("status")
    sandbox.root = sandbox.root.rename(sandbox.root.with_name("moved"))
    assert sandbox.run("status")[:2] == (0, "cli: status\n")
    assert len(sandbox.calls("venv --clear")) == 2


def test_no_python_names_the_package(sandbox: Sandbox) -> None:
    sandbox.add_python("python3")
    (sandbox.fake / "old-python3").touch()
    status, stdout, stderr = sandbox.run("up")
    assert (status, stdout) == (1, "")
    assert stderr.startswith("error: no Python 3.11 or newer was found on PATH: install the system")
    assert len(stderr.splitlines()) == 1


def test_no_venv_module_names_the_package(sandbox: Sandbox) -> None:
    sandbox.add_python("python3.12")
    (sandbox.fake / "no-venv").touch()
    status, _, stderr = sandbox.run("up")
    assert status == 1
    assert stderr.startswith("error: python3.12 has no ensurepip and venv modules: install the")
    assert "system package python3.12-venv" in stderr
    assert len(stderr.splitlines()) == 1


@pytest.mark.parametrize(("redis", "chosen"), [(True, "python3.12"), (False, "python3.11")])
def test_redis_wheel_decides_between_pythons(sandbox: Sandbox, redis: bool, chosen: str) -> None:
    sandbox.add_python("python3.11")
    sandbox.add_python("python3.12")
    if redis:
        (sandbox.bin / "redis-server").symlink_to(sandbox.bin / "sh")
    sandbox.run("status")
    assert sandbox.calls("venv --clear")[0].startswith(chosen)


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("ERROR: [Errno 28] No space left on device", "ran out of disk space"),
        ("ERROR: HTTPSConnectionPool: Max retries exceeded", "a download of the installation"),
        ("ERROR: No matching distribution found for torch", "No matching distribution found"),
    ],
)
def test_failed_install_is_one_sentence(sandbox: Sandbox, output: str, sentence: str) -> None:
    sandbox.add_python()
    (sandbox.fake / "fail").write_text(f"Traceback (most recent call last):\n{output}\n")
    status, stdout, stderr = sandbox.run("up")
    assert (status, stdout) == (1, "")
    last = stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert sentence in last
    assert "MiB" in last
    assert "again" in last
    assert "Traceback" not in stderr
    (sandbox.fake / "fail").unlink()
    assert sandbox.run("status")[:2] == (0, "cli: status\n")


def test_missing_compiler_is_said_and_not_fatal(sandbox: Sandbox) -> None:
    sandbox.add_python()
    (sandbox.root / "shared" / "kernels").mkdir(parents=True)
    (sandbox.root / "shared" / "kernels" / "build.py").touch()
    (sandbox.fake / "no-compiler").touch()
    status, stdout, stderr = sandbox.run("status")
    assert (status, stdout) == (0, "cli: status\n")
    assert "the native CPU kernels were not built (is g++ installed?" in stderr
    assert sandbox.run("status")[2] == "", "said once"
