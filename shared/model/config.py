"""Dimensions of a Step3 model, read from and written to a released-layout config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


class ConfigError(ValueError):
    """A configuration value is missing or out of range; the text names the key and the value."""


def _require(condition: bool, key: str, value: object, wanted: str) -> None:
    if not condition:
        raise ConfigError(f"config: {key} = {value!r}: must be {wanted}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """The decoder. Field names are the released config.json's."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    vocab_size: int
    num_attention_heads: int
    head_dim: int
    share_q_dim: int
    moe_layers: tuple[int, ...]
    moe_num_experts: int
    moe_top_k: int
    moe_intermediate_size: int
    share_expert_dim: int
    num_attention_groups: int = 1
    norm_expert_weight: bool = False
    rope_theta: float = 500000.0
    rms_norm_eps: float = 1e-5
    max_position_embedding: int = 65536

    def __post_init__(self) -> None:
        for key in (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "vocab_size",
            "num_attention_heads",
            "head_dim",
            "share_q_dim",
            "max_position_embedding",
        ):
            _require(getattr(self, key) > 0, key, getattr(self, key), "positive")
        _require(self.head_dim % 2 == 0, "head_dim", self.head_dim, "even (RoPE rotates halves)")
        _require(
            self.num_attention_groups == 1,
            "num_attention_groups",
            self.num_attention_groups,
            "1 (MFA has one key-value head)",
        )
        _require(
            all(0 <= layer < self.num_hidden_layers for layer in self.moe_layers),
            "moe_layers_enum",
            self.moe_layers,
            f"layers of 0..{self.num_hidden_layers - 1}",
        )
        if self.moe_layers:
            _require(
                0 < self.moe_top_k <= self.moe_num_experts,
                "moe_top_k",
                self.moe_top_k,
                f"in 1..moe_num_experts ({self.moe_num_experts})",
            )

    def is_moe(self, layer: int) -> bool:
        return layer in self.moe_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """The image encoder and the two convolutions behind it."""

    hidden_size: int
    intermediate_size: int
    output_hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int = 728
    crop_size: int = 504
    patch_size: int = 14
    num_channels: int = 3
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        _require(
            self.hidden_size % self.num_attention_heads == 0,
            "vision_config.num_attention_heads",
            self.num_attention_heads,
            f"a divisor of hidden_size ({self.hidden_size})",
        )
        for key in ("image_size", "crop_size"):
            size = getattr(self, key)
            _require(
                size >= 2 * self.patch_size and size % self.patch_size == 0,
                f"vision_config.{key}",
                size,
                f"a multiple of patch_size ({self.patch_size}) of at least two patches",
            )

    def num_tokens(self, size: int) -> int:
        """Tokens of a square image of `size` pixels after both stride-2 convolutions."""
        grid = size // self.patch_size
        half = (grid - 2) // 2 + 1
        return int(((half - 1) // 2 + 1) ** 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step3Config:
    """A whole model: `text`, `vision`, the bridge between them and the special token ids."""

    text: TextConfig
    vision: VisionConfig
    image_token_id: int
    bos_token_id: int
    eos_token_id: int
    projector_bias: bool = False
    understand_projector_stride: int = 2
    torch_dtype: str = "bfloat16"
    # What the checkpoint's config.json holds besides; written back unchanged.
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(
            self.understand_projector_stride == 2,
            "understand_projector_stride",
            self.understand_projector_stride,
            "2 (the token counts of an image follow from it)",
        )

    @property
    def image_token_len(self) -> int:
        return self.vision.num_tokens(self.vision.image_size)

    @property
    def patch_token_len(self) -> int:
        return self.vision.num_tokens(self.vision.crop_size)

    @classmethod
    def from_dir(cls, folder: str | Path) -> Step3Config:
        """Read `folder`/config.json.

        Raises:
          ConfigError: the file is absent, not JSON, or a key is missing or out of range.
        """
        path = Path(folder) / "config.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"model folder {str(folder)!r} has no config.json") from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read as JSON: {error}") from None
        return cls.from_dict(raw)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Step3Config:
        """Build from the mapping of a released config.json."""
        try:
            text_raw, vision_raw = dict(raw["text_config"]), dict(raw["vision_config"])
            text = _pick(TextConfig, text_raw, moe_layers=_parse_layers(text_raw))
            vision = _pick(VisionConfig, vision_raw)
            known = {"text_config", "vision_config"}
            fields = {
                key: raw[key]
                for key in (
                    "image_token_id",
                    "bos_token_id",
                    "eos_token_id",
                    "projector_bias",
                    "understand_projector_stride",
                    "torch_dtype",
                )
                if key in raw
            }
            return cls(
                text=text,
                vision=vision,
                extra={k: v for k, v in raw.items() if k not in known and k not in fields},
                **fields,
            )
        except KeyError as error:
            raise ConfigError(f"config: key {error.args[0]!r} is missing") from None
        except TypeError as error:
            raise ConfigError(f"config: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The mapping that `from_dict` reads, in the released layout."""
        text = asdict(self.text)
        text["moe_layers_enum"] = ",".join(str(layer) for layer in text.pop("moe_layers"))
        text |= {"architectures": ["Step3TextForCausalLM"], "model_type": "step3_text"}
        text["max_seq_len"] = self.text.max_position_embedding
        text["torch_dtype"] = self.torch_dtype
        return {
            "architectures": ["Step3VLForConditionalGeneration"],
            "model_type": "step3_vl",
            "im_start_token": "<im_start>",
            "im_patch_token": "<im_patch>",
            "im_end_token": "<im_end>",
            "tie_word_embeddings": False,
            **self.extra,
            "image_token_len": self.image_token_len,
            "patch_token_len": self.patch_token_len,
            "understand_projector_stride": self.understand_projector_stride,
            "projector_bias": self.projector_bias,
            "image_token_id": self.image_token_id,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
            "torch_dtype": self.torch_dtype,
            "text_config": text,
            "vision_config": asdict(self.vision) | {"hidden_act": "quick_gelu"},
        }


def _parse_layers(text_raw: Mapping[str, Any]) -> tuple[int, ...]:
    """`moe_layers_enum`: the release writes "4,5,...,59"; a list is taken too."""
    value = text_raw["moe_layers_enum"]
    if isinstance(value, str):
        value = [part for part in value.strip().split(",") if part]
    try:
        return tuple(int(part) for part in value)
    except (TypeError, ValueError):
        raise ConfigError(
            f"config: moe_layers_enum = {value!r}: must be comma-separated layer numbers"
        ) from None


def _pick(cls: type[Any], raw: Mapping[str, Any], **more: Any) -> Any:
    names = set(cls.__dataclass_fields__)
    return cls(**{k: v for k, v in raw.items() if k in names and v is not None}, **more)
