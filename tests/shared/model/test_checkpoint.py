import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from shared.errors import AlreadyExists
from shared.model import checkpoint
from shared.model.checkpoint import (
    INDEX_FILE,
    Checkpoint,
    CheckpointError,
    attention_names,
    expected_shapes,
    ffn_names,
    load_model,
    save,
    vision_names,
)
from shared.model.presets import STEP3, TINY

SHARD_BYTES = 300_000
EXPERTS = "model.layers.2.moe.gate_proj.weight"


@pytest.fixture
def sharded(tiny, tiny_dir, tmp_path):
    """The tiny checkpoint, written again in several shards."""
    folder = tmp_path / "sharded"
    save(
        folder,
        tiny.config,
        tiny.state_dict(),
        max_shard_bytes=SHARD_BYTES,
        files=[tiny_dir / "tokenizer.json"],
    )
    return folder


def raises(reason, *parts):
    """CheckpointError with this reason, and one line that has all parts."""
    pattern = ".*".join(re.escape(str(part)) for part in parts)
    return pytest.raises(CheckpointError, match=pattern, check=lambda e: e.reason == reason)


def test_names_and_shapes_are_the_released_ones(tiny_dir, tiny):
    opened = Checkpoint.open(tiny_dir)
    shapes = expected_shapes(tiny.config)
    assert opened.names() == sorted(shapes)
    opened.check(shapes)


def test_released_shapes():
    shapes = expected_shapes(STEP3)
    assert shapes["model.layers.4.moe.down_proj.weight"] == (48, 7168, 5120)
    assert shapes["model.layers.60.mlp.gate_proj.weight"] == (18432, 7168)
    assert shapes["model.layers.0.self_attn.wq.weight"] == (16384, 2048)
    assert shapes["vision_model.transformer.layers.62.mlp.fc1.bias"] == (15360,)
    assert shapes["vision_model.embeddings.class_embedding"] == (1, 1792)
    assert shapes["vit_downsampler2.weight"] == (8192, 4096, 3, 3)


def test_round_trip_in_shards(sharded, tiny):
    index = json.loads((sharded / INDEX_FILE).read_text())
    files = sorted({*index["weight_map"].values()})
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert len(files) > 4
    assert index["metadata"]["total_size"] == 4 * sum(t.numel() for t in tiny.state_dict().values())
    # A shard is over the limit only when it holds a single tensor.
    for file in files:
        tensors = load_file(sharded / file)
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= SHARD_BYTES
    again = load_model(sharded)
    for name, tensor in tiny.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert (sharded / "tokenizer.json").exists()
    assert [path.name for path in sharded.parent.iterdir()] == ["sharded"]
    # Made in a private temporary folder, read by services of other users.
    assert sharded.stat().st_mode & 0o777 == 0o755


def test_single_file_and_configured_dtype(tiny, tmp_path):
    raw = tiny.config.to_dict() | {"torch_dtype": "bfloat16"}
    config = type(tiny.config).from_dict(raw)
    save(tmp_path / "half", config, tiny.state_dict())
    assert not (tmp_path / "half" / INDEX_FILE).exists()
    opened = Checkpoint.open(tmp_path / "half")
    assert opened.get("model.norm.weight").dtype == torch.bfloat16
    assert opened.get("model.norm.weight", torch.float32).dtype == torch.float32


def test_services_own_every_tensor_once(tiny):
    parts = [names(TINY) for names in (attention_names, ffn_names, vision_names)]
    assert sorted(name for part in parts for name in part) == sorted(tiny.state_dict())
    attention, ffn, vision = map(set, parts)
    assert {
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
        "model.layers.2.moe.gate.weight",
        "model.layers.2.post_attention_layernorm.weight",
        "model.layers.5.self_attn.wq.weight",
    } <= attention
    assert {
        "model.layers.5.mlp.up_proj.weight",
        "model.layers.2.share_expert.down_proj.weight",
        EXPERTS,
    } <= ffn
    assert len(ffn) == 3 * 3 + 3 * 6
    assert {"vit_large_projector.weight", "vision_model.embeddings.class_embedding"} <= vision


def test_partial_load_opens_only_the_files_it_needs(sharded, tiny, monkeypatch):
    index = json.loads((sharded / INDEX_FILE).read_text())["weight_map"]
    opened = []
    real = checkpoint.safe_open
    monkeypatch.setattr(
        checkpoint, "safe_open", lambda path, **kw: opened.append(path.name) or real(path, **kw)
    )
    part = Checkpoint.open(sharded).load(["lm_head.weight", EXPERTS])
    assert set(part) == {"lm_head.weight", EXPERTS}
    assert torch.equal(part[EXPERTS], tiny.state_dict()[EXPERTS])
    assert sorted(set(opened)) == sorted({index["lm_head.weight"], index[EXPERTS]})


def test_slices(tiny_dir, tiny):
    opened = Checkpoint.open(tiny_dir)
    whole = tiny.state_dict()[EXPERTS]
    assert torch.equal(opened.get_slice(EXPERTS, slice(2, 5)), whole[2:5])
    assert torch.equal(opened.get_slice(EXPERTS, slice(0, 8), slice(4, 20)), whole[:, 4:20])


def test_absent_folder_and_files(tmp_path, tiny_dir):
    with raises("MODEL_NOT_FOUND", tmp_path / "nowhere", "does not exist"):
        Checkpoint.open(tmp_path / "nowhere")
    with raises("MODEL_NOT_FOUND", tmp_path, "has no config.json"):
        Checkpoint.open(tmp_path)
    shutil.copy(tiny_dir / "config.json", tmp_path)
    with raises("MODEL_NOT_FOUND", tmp_path, "has neither"):
        Checkpoint.open(tmp_path)


def test_invalid_config(tmp_path, tiny):
    raw = tiny.config.to_dict()
    raw["text_config"]["head_dim"] = 31
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with raises("CONFIG_INVALID", "head_dim = 31", tmp_path):
        Checkpoint.open(tmp_path)


def write_single(folder, tiny, change):
    tensors = dict(tiny.state_dict())
    change(tensors)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(tiny.config.to_dict()))


def test_missing_tensor(tmp_path, tiny):
    write_single(tmp_path / "m", tiny, lambda tensors: tensors.pop(EXPERTS))
    with raises("TENSOR_MISSING", tmp_path / "m", EXPERTS, "[8, 32, 64]"):
        load_model(tmp_path / "m")
    # What does not need the tensor still loads.
    assert Checkpoint.open(tmp_path / "m").load(attention_names(tiny.config))


def test_mis_shaped_tensor(tmp_path, tiny):
    def widen(tensors):
        tensors["model.norm.weight"] = torch.ones(65)

    write_single(tmp_path / "m", tiny, widen)
    with raises("TENSOR_SHAPE", tmp_path / "m", "model.norm.weight", "[65]", "[64]"):
        load_model(tmp_path / "m")


def test_damaged_files(sharded):
    index = json.loads((sharded / INDEX_FILE).read_text())["weight_map"]
    file = sharded / index["lm_head.weight"]
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with raises("CHECKPOINT_CORRUPT", sharded, file.name, "cut short or damaged"):
        Checkpoint.open(sharded).get("lm_head.weight")
    file.write_bytes(b"")
    with raises("CHECKPOINT_CORRUPT", sharded, file.name):
        Checkpoint.open(sharded).get("lm_head.weight")
    file.unlink()
    with raises("CHECKPOINT_CORRUPT", sharded, file.name, "absent"):
        Checkpoint.open(sharded).get("lm_head.weight")


def test_tensor_that_the_index_puts_into_the_wrong_file(sharded):
    index = json.loads((sharded / INDEX_FILE).read_text())
    index["weight_map"]["lm_head.weight"] = index["weight_map"]["model.norm.weight"] = index[
        "weight_map"
    ]["model.embed_tokens.weight"]
    (sharded / INDEX_FILE).write_text(json.dumps(index))
    with raises("CHECKPOINT_CORRUPT", sharded, "has no readable tensor"):
        Checkpoint.open(sharded).load(["lm_head.weight", "model.norm.weight"])


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": "../a.safetensors"}}']
)
def test_damaged_index(sharded, text):
    (sharded / INDEX_FILE).write_text(text)
    with raises("CHECKPOINT_CORRUPT", sharded, INDEX_FILE):
        Checkpoint.open(sharded)


def test_save_never_replaces_and_leaves_nothing_behind(sharded, tiny, tmp_path, monkeypatch):
    with pytest.raises(AlreadyExists, match="is not empty"):
        save(sharded, tiny.config, tiny.state_dict())
    with pytest.raises(ValueError, match=r"lm_head\.weight"):
        save(tmp_path / "new", tiny.config, {**tiny.state_dict(), "lm_head.weight": torch.ones(1)})

    def full_disk(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path / "new", tiny.config, tiny.state_dict())
    assert [path.name for path in tmp_path.iterdir()] == ["sharded"]
