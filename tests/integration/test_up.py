"""`./step3 up` with the real services and a real model: chat, a crash, and nothing left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


class Step3:
    """The command line with a home and ports of its own."""

    def __init__(self, home: Path, port_base: int) -> None:
        self.home = home
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("STEP3_")},
            "STEP3_HOME": str(home),
            "STEP3_PORT_BASE": str(port_base),
            "OMP_NUM_THREADS": "1",
        }

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "shared.cli", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def services(self) -> dict[str, dict[str, Any]]:
        report = json.loads(self("status", "--json").stdout)
        return {service["service"]: service for service in report["services"]}

    def chat(self, *arguments: str) -> dict[str, Any]:
        result = self("chat", *arguments, "--json", "--temperature", "0")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)  # type: ignore[no-any-return]


@pytest.fixture
def step3(tmp_path: Path, free_port_base: Callable[[], int]) -> Iterator[Step3]:
    step3 = Step3(tmp_path / "home", free_port_base())
    yield step3
    step3("down")


def picture_of(text: str, folder: Path) -> Path:
    """Black on white, in Pillow's own font."""
    image = Image.new("RGB", (240, 120), "white")
    ImageDraw.Draw(image).text((30, 10), text, fill="black", font=ImageFont.load_default(80))
    path = folder / f"{text}.png"
    image.save(path)
    return path


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_from_up_to_down(step3: Step3) -> None:
    up = step3("up", "--detach", "--no-ui", "--ffn", "2")
    assert up.returncode == 0, up.stderr
    services = step3.services()
    assert set(services) == {"redis", "vision", "ffn-0", "ffn-1", "attention", "gateway"}
    pids = [service["pid"] for service in services.values()]

    first = step3.chat("What is 47 + 38?")
    assert first["content"].endswith("85.")
    assert "5, carry 1" in first["reasoning"]
    seen = step3.chat("What number is this?", "--image", str(picture_of("305", step3.home)))
    assert "305" in seen["content"]
    assert seen["usage"]["image_tokens"] > 0

    os.kill(services["ffn-1"]["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 60
    while True:
        shard = step3.services()["ffn-1"]
        if shard["state"] == "ready" and shard["restarts"] == 1:
            break
        assert time.monotonic() < deadline, shard
        time.sleep(0.2)
    pids.append(shard["pid"])
    # The attention instance finds the new process by itself; it may need a moment for it.
    while step3("chat", "again", "--json", "--max-tokens", "4").returncode != 0:
        assert time.monotonic() < deadline, "no answer after the restart of an FFN shard"
        time.sleep(0.5)
    again = step3.chat("What is 47 + 38?")
    assert (again["reasoning"], again["content"]) == (first["reasoning"], first["content"])

    assert step3("down").returncode == 0
    assert not any(is_alive(pid) for pid in pids)


def test_unknown_model_folder_is_the_services_own_sentence(step3: Step3) -> None:
    up = step3("up", "--detach", "--no-ui", "--model", "/no/such/folder")
    assert up.returncode == 1
    last = up.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert "/no/such/folder" in last
    assert "Traceback" not in up.stderr
    assert step3("status").returncode == 1
