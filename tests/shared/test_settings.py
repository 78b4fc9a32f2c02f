from __future__ import annotations

import pytest

from shared.settings import Settings


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(home=tmp_path, host="127.0.0.1", port_base=7300)


def test_addresses_on_this_machine(settings, monkeypatch):
    monkeypatch.delenv("STEP3_ADDRESS_ATTENTION", raising=False)
    assert settings.address("attention", 1) == "127.0.0.1:7311"
    assert settings.addresses("attention") == ["127.0.0.1:7310"]


def test_addresses_elsewhere(settings, monkeypatch):
    monkeypatch.setenv("STEP3_ADDRESS_ATTENTION", "a:1, b:2")
    assert settings.addresses("attention") == ["a:1", "b:2"]
    assert settings.address("attention", 1) == "b:2"
    with pytest.raises(ValueError, match="STEP3_ADDRESS_ATTENTION"):
        settings.address("attention", 2)
