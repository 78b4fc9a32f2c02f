"""A state is read whole or not at all."""

import logging

import pytest
import torch

from services.trainer import state as state_module
from services.trainer.state import load_state, save_state
from shared.errors import FailedPrecondition


def test_what_is_saved_is_loaded(tmp_path):
    saved = {"step": 3, "model": {"w": torch.arange(4.0)}}
    save_state(tmp_path, 3, saved)
    loaded = load_state(tmp_path)
    assert loaded["step"] == 3
    assert loaded["model"]["w"].equal(saved["model"]["w"])


def test_an_empty_folder_holds_no_state(tmp_path):
    assert load_state(tmp_path / "absent") is None


def test_the_last_two_are_kept(tmp_path):
    for step in (1, 2, 10, 3):
        save_state(tmp_path, step, {"step": step})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-0000003", "step-0000010"]


@pytest.mark.parametrize("file", ["state.pt", "manifest.json"])
@pytest.mark.parametrize("left", [0, 20])
def test_a_torn_file_is_refused_and_the_state_before_is_used(tmp_path, caplog, file, left):
    for step in (1, 2):
        save_state(tmp_path, step, {"step": step})
    torn = tmp_path / "step-0000002" / file
    torn.write_bytes(torn.read_bytes()[:left])
    with caplog.at_level(logging.WARNING):
        assert load_state(tmp_path) == {"step": 1}
    assert "step-0000002 is damaged" in caplog.text


def test_a_changed_byte_is_noticed(tmp_path):
    for step in (1, 2):
        save_state(tmp_path, step, {"step": step, "w": torch.zeros(100)})
    file = tmp_path / "step-0000002" / "state.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert load_state(tmp_path)["step"] == 1


def test_all_damaged_is_an_error(tmp_path):
    save_state(tmp_path, 1, {"step": 1})
    (tmp_path / "step-0000001" / "manifest.json").unlink()
    with pytest.raises(FailedPrecondition, match=r"every checkpoint in .* is damaged"):
        load_state(tmp_path)


def test_a_failed_write_leaves_the_old_state_and_nothing_else(tmp_path, monkeypatch):
    save_state(tmp_path, 1, {"step": 1})

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state_module.torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_state(tmp_path, 2, {"step": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["step-0000001"]
    assert load_state(tmp_path) == {"step": 1}
