"""Checkpoints in the released layout: config.json, safetensors shards and their index.

Reading is lazy and by memory map: a service opens the folder and touches its own tensors only.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from shared.errors import AlreadyExists, FailedPrecondition
from shared.model.config import ConfigError, Step3Config
from shared.model.step3 import Step3ForConditionalGeneration

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
MAX_SHARD_BYTES = 5 * 10**9


class CheckpointError(FailedPrecondition):
    """A model folder cannot be used.

    Reasons: MODEL_NOT_FOUND, CONFIG_INVALID, TENSOR_MISSING, TENSOR_SHAPE, CHECKPOINT_CORRUPT.
    """


def expected_shapes(config: Step3Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a checkpoint of this configuration holds."""
    with torch.device("meta"):
        model = Step3ForConditionalGeneration(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def vision_names(config: Step3Config) -> list[str]:
    """Tensors of the vision service: image encoder, convolutions, projector."""
    return [name for name in expected_shapes(config) if name.startswith(("vision_model.", "vit_"))]


def ffn_names(config: Step3Config) -> list[str]:
    """Tensors of an FFN service: dense FFNs, shared experts, routed experts without the router."""
    return [name for name in expected_shapes(config) if _is_ffn(name)]


def attention_names(config: Step3Config) -> list[str]:
    """Tensors of an attention service: all of the text model that is not the FFN's."""
    return [
        name
        for name in expected_shapes(config)
        if name.startswith(("model.", "lm_head.")) and not _is_ffn(name)
    ]


def _is_ffn(name: str) -> bool:
    """model.layers.{i}.{mlp|share_expert|moe}.{gate|up|down}_proj.weight."""
    parts = name.split(".")
    return len(parts) > 3 and (
        parts[3] in ("mlp", "share_expert") or (parts[3] == "moe" and parts[4] != "gate")
    )


class Checkpoint:
    """An open model folder. Tensors are read when asked for; shapes are checked on the way."""

    def __init__(self, folder: Path, config: Step3Config, files: Mapping[str, str]) -> None:
        self.folder = folder
        self.config = config
        self._files = dict(files)
        self._shapes = expected_shapes(config)
        self._readers: dict[str, Any] = {}

    @classmethod
    def open(cls, folder: str | Path) -> Checkpoint:
        """Read config.json and the index; no tensor yet.

        Raises:
          CheckpointError: MODEL_NOT_FOUND, CONFIG_INVALID or CHECKPOINT_CORRUPT.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError(
                f"model folder {str(folder)!r} does not exist; give a folder with config.json and "
                "safetensors files",
                reason="MODEL_NOT_FOUND",
                field="model",
            )
        try:
            config = Step3Config.from_dir(folder)
        except ConfigError as error:
            absent = not (folder / "config.json").exists()
            raise CheckpointError(
                f"{error} (model folder {str(folder)!r})" if not absent else str(error),
                reason="MODEL_NOT_FOUND" if absent else "CONFIG_INVALID",
                field="model",
            ) from None
        checkpoint = cls(folder, config, {})
        checkpoint._files = checkpoint._read_index()
        return checkpoint

    def _read_index(self) -> dict[str, str]:
        """Tensor name to file name."""
        path = self.folder / INDEX_FILE
        if not path.exists():
            if not (self.folder / SINGLE_FILE).exists():
                raise CheckpointError(
                    f"model folder {str(self.folder)!r} has neither {INDEX_FILE} nor {SINGLE_FILE}",
                    reason="MODEL_NOT_FOUND",
                    field="model",
                )
            return dict.fromkeys(self._reader(SINGLE_FILE).keys(), SINGLE_FILE)
        try:
            weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
            files = {str(name): str(file) for name, file in weight_map.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._corrupt(
                INDEX_FILE, f"is not an index with a weight_map: {error!r}"
            ) from None
        for file in sorted(set(files.values())):
            if Path(file).name != file:
                raise self._corrupt(INDEX_FILE, f"names a file outside the folder: {file!r}")
        return files

    def names(self) -> list[str]:
        """All tensors that the folder holds, sorted."""
        return sorted(self._files)

    def get(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """One tensor, as stored or converted to `dtype`.

        Raises:
          CheckpointError: TENSOR_MISSING, TENSOR_SHAPE or CHECKPOINT_CORRUPT.
        """
        return self.get_slice(name, dtype=dtype)

    def get_slice(self, name: str, *ranges: slice, dtype: torch.dtype | None = None) -> Tensor:
        """Part of a tensor, e.g. `get_slice(name, slice(0, 4))`: the first four experts."""
        self.check([name])
        file = self._files[name]
        try:
            if ranges:
                tensor: Tensor = self._reader(file).get_slice(name)[ranges].contiguous()
            else:
                tensor = self._reader(file).get_tensor(name)
        except SafetensorError as error:
            raise self._corrupt(file, f"tensor {name!r} cannot be read: {error}") from None
        return tensor if dtype is None else tensor.to(dtype)

    def load(self, names: Iterable[str], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Several tensors by name; all are checked before the first is read."""
        names = list(names)
        self.check(names)
        return {name: self.get_slice(name, dtype=dtype) for name in names}

    def check(self, names: Iterable[str]) -> None:
        """Compare presence and shape with the configuration, reading file headers only."""
        for name in names:
            if name not in self._files:
                raise CheckpointError(
                    f"model folder {str(self.folder)!r} has no tensor {name!r}"
                    + (f" of shape {list(self._shapes[name])}" if name in self._shapes else "")
                    + "; the folder is incomplete or config.json is another model's",
                    reason="TENSOR_MISSING",
                    field="model",
                    metadata={"tensor": name},
                )
            file = self._files[name]
            try:
                found = tuple(self._reader(file).get_slice(name).get_shape())
            except SafetensorError as error:
                raise self._corrupt(file, f"has no readable tensor {name!r}: {error}") from None
            wanted = self._shapes.get(name, found)
            if found != wanted:
                raise CheckpointError(
                    f"model folder {str(self.folder)!r}: tensor {name!r} has shape {list(found)}, "
                    f"config.json asks for {list(wanted)}",
                    reason="TENSOR_SHAPE",
                    field="model",
                    metadata={"tensor": name},
                )

    def _reader(self, file: str) -> Any:
        if file not in self._readers:
            try:
                self._readers[file] = safe_open(self.folder / file, framework="pt")
            except FileNotFoundError:
                raise self._corrupt(file, "is named in the index and absent") from None
            except (OSError, SafetensorError) as error:
                raise self._corrupt(file, f"is cut short or damaged: {error}") from None
        return self._readers[file]

    def _corrupt(self, file: str, what: str) -> CheckpointError:
        return CheckpointError(
            f"model folder {str(self.folder)!r}: {file} {what}",
            reason="CHECKPOINT_CORRUPT",
            field="model",
            metadata={"file": file},
        )


def load_model(
    folder: str | Path,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
) -> Step3ForConditionalGeneration:
    """The whole model from a checkpoint folder; `dtype` None keeps the stored types.

    Raises:
      CheckpointError: the folder cannot be used, with the reason.
    """
    checkpoint = Checkpoint.open(folder)
    with torch.device("meta"):
        model = Step3ForConditionalGeneration(checkpoint.config)
    tensors = checkpoint.load(model.state_dict(), dtype)
    model.load_state_dict(
        {name: tensor.to(device) for name, tensor in tensors.items()}, assign=True
    )
    return model.eval()


def save(
    folder: str | Path,
    config: Step3Config,
    state_dict: Mapping[str, Tensor],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    files: Iterable[Path] = (),
) -> None:
    """Write a checkpoint as `config.torch_dtype`; the folder appears whole or not at all.

    Args:
      folder: must not exist, or be empty.
      config: written as config.json.
      state_dict: all tensors of the model.
      max_shard_bytes: a shard holds whole tensors up to this size, at least one.
      files: copied beside the weights (the tokenizer).

    Raises:
      AlreadyExists: the folder holds something.
      ValueError: a tensor is missing or mis-shaped for `config`.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise AlreadyExists(
            f"checkpoint folder {str(folder)!r} is not empty; remove it or choose another",
            reason="CHECKPOINT_EXISTS",
        )
    found = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    if wrong := dict(found.items() ^ expected_shapes(config).items()):
        raise ValueError(f"state_dict: {sorted(wrong)[:3]} missing, extra or mis-shaped for config")

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        _write_shards(temporary, state_dict, getattr(torch, config.torch_dtype), max_shard_bytes)
        _write_json(temporary / "config.json", config.to_dict())
        for path in files:
            shutil.copyfile(path, temporary / Path(path).name)
        for path in temporary.iterdir():
            _sync(path)
        temporary.replace(folder)
        _sync(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_shards(
    folder: Path, state_dict: Mapping[str, Tensor], dtype: torch.dtype, max_shard_bytes: int
) -> None:
    shards: list[list[str]] = [[]]
    room = max_shard_bytes
    for name, tensor in state_dict.items():
        size = tensor.numel() * dtype.itemsize
        if shards[-1] and size > room:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(name)
        room -= size
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = SINGLE_FILE
        if len(shards) > 1:
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: state_dict[name].detach().to("cpu", dtype).contiguous() for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(tensor.numel() for tensor in state_dict.values()) * dtype.itemsize
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(folder / INDEX_FILE, index)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
