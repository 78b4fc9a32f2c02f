import socket

import pytest

from shared.settings import settings
from ui.__main__ import main


def test_a_taken_port_is_said_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("STEP3_PORT_BASE", str(port - 4))
        settings.cache_clear()
        try:
            assert main() == 1
        finally:
            settings.cache_clear()
    said = capsys.readouterr().err
    assert f"127.0.0.1:{port} cannot be listened on" in said
    assert "STEP3_PORT_BASE" in said
    assert said.count("\n") == 1
