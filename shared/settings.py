"""Every setting of every service, typed: defaults < STEP3_HOME/step3.yaml < STEP3_* variables."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

REPOSITORY = Path(__file__).resolve().parent.parent

TransportName = Literal["auto", "inproc", "shm", "unix", "tcp", "verbs", "cuda"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GatewaySettings(_Section):
    max_images: int = Field(default=8, ge=0)
    max_image_bytes: int = Field(default=20 * 2**20, ge=1)
    # Checked after the header is read and before a pixel is decoded.
    max_image_pixels: int = Field(default=50_000_000, ge=1)
    # Requests being answered at once; one more is refused with RESOURCE_EXHAUSTED.
    max_concurrent_requests: int = Field(default=64, ge=1)
    # Unset deadlines become this.
    default_deadline_s: float = Field(default=300.0, gt=0)


class AttentionSettings(_Section):
    block_size: int = Field(default=16, ge=1)
    num_blocks: int = Field(default=2048, ge=2)
    max_running: int = Field(default=32, ge=1)
    max_waiting: int = Field(default=256, ge=0)
    # Tokens that one engine step reads at most; longer prompts are read in chunks.
    max_step_tokens: int = Field(default=512, ge=1)
    # Parts of a step that take turns between attention and FFN.
    micro_batches: int = Field(default=1, ge=1, le=4)
    # How long one FFN answer may take before its request fails.
    ffn_deadline_s: float = Field(default=10.0, gt=0)
    # Unset: all cores.
    threads: int | None = Field(default=None, ge=1)


class FfnSettings(_Section):
    shards: int = Field(default=1, ge=1)
    threads: int | None = Field(default=None, ge=1)


class VisionSettings(_Section):
    # Long strips make many crops; more than this many are refused.
    max_crops: int = Field(default=40, ge=0)
    threads: int = Field(default=1, ge=1)


class SamplingDefaults(_Section):
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    min_p: float = Field(default=0.0, ge=0, le=1)
    max_tokens: int = Field(default=512, ge=1)


class Settings(BaseSettings):
    """Read once a process with `settings()`.

    STEP3_PORT_BASE=7400 moves every port of this machine's services together;
    STEP3_GATEWAY__MAX_IMAGES=4 reaches into a section.
    """

    model_config = SettingsConfigDict(
        env_prefix="STEP3_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    home: Path = REPOSITORY / ".step3"
    model: Path = REPOSITORY / "models" / "nano"
    host: str = "127.0.0.1"
    port_base: int = Field(default=7300, ge=1, le=65000)
    transport: TransportName = "auto"
    # kernels: "auto" takes the fastest that this machine has, "reference" the plain PyTorch.
    kernels: Literal["auto", "reference", "native"] = "auto"
    gateway: GatewaySettings = GatewaySettings()
    attention: AttentionSettings = AttentionSettings()
    ffn: FfnSettings = FfnSettings()
    vision: VisionSettings = VisionSettings()
    sampling: SamplingDefaults = SamplingDefaults()

    @staticmethod
    def port_offset(service: str) -> int:
        """Where a service's ports start, above `port_base`."""
        return _PORT_OFFSETS[service]

    def port(self, service: str, index: int = 0) -> int:
        """The port of a service's `index`-th instance on this machine."""
        return self.port_base + self.port_offset(service) + index

    def address(self, service: str, index: int = 0) -> str:
        """host:port; STEP3_ADDRESS_<SERVICE> overrides it, for services on other machines.

        Of several instances, the variable holds comma-separated addresses.
        """
        parts = self._override(service)
        if not parts:
            return f"{self.host}:{self.port(service, index)}"
        if index >= len(parts):
            raise ValueError(
                f"STEP3_ADDRESS_{service.upper()} = {','.join(parts)!r}: has no address "
                f"for instance {index}"
            )
        return parts[index]

    def addresses(self, service: str) -> list[str]:
        """All instances that STEP3_ADDRESS_<SERVICE> names; without it, the one on this machine."""
        return self._override(service) or [self.address(service)]

    def _override(self, service: str) -> list[str]:
        value = os.environ.get(f"STEP3_ADDRESS_{service.upper()}", "")
        return [part.strip() for part in value.split(",")] if value else []

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        home = Path(os.environ.get("STEP3_HOME", REPOSITORY / ".step3"))
        yaml_source = YamlConfigSettingsSource(settings_cls, yaml_file=home / "step3.yaml")
        return init_settings, env_settings, yaml_source


_PORT_OFFSETS = {
    "gateway": 0,
    "vision": 1,
    "reward": 2,
    "redis": 3,
    "ui": 4,
    "attention": 10,
    "ffn": 30,
}


@cache
def settings() -> Settings:
    """This process's settings."""
    return Settings()
