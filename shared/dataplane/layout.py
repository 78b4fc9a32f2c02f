"""Where everything lies in a channel's memory, computed by both ends from the same few numbers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

PROTOCOL_VERSION = 1
HEADER_BYTES = 128
# Sections start on 256-byte lines: no section shares a cache line or a vector load with another.
ALIGNMENT = 256
# Wire codes of the hidden states' types; a code is never reused.
DTYPE_CODES: dict[torch.dtype, int] = {torch.float32: 1, torch.bfloat16: 2}
# More than this for one channel is a mistake in a number, not a need.
MAX_CHANNEL_BYTES = 4 * 2**30


class Sections(NamedTuple):
    """Offsets in bytes from the start of a slot, and the bytes of the whole slot."""

    expert_ids: int
    weights: int
    hidden: int
    slot_bytes: int


@dataclass(frozen=True)
class Layout:
    """The dimensions of one channel.

    A dispatch slot holds header, expert ids, weights and hidden states; the combine slot of the
    same number holds header and hidden states.

    Args:
      hidden: width of a token's hidden state, in elements.
      top_k: routed experts chosen per token; 0 for a model without MoE layers.
      max_tokens: the most tokens that one message carries.
      slots: messages in flight; two for each micro-batch keep both directions busy.
      dispatch_dtype: of the hidden states, attention to FFN.
      combine_dtype: of the partial results, FFN to attention.
    """

    hidden: int
    top_k: int
    max_tokens: int
    slots: int = 8
    dispatch_dtype: torch.dtype = torch.float32
    combine_dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        limits = (("hidden", 1, 2**20), ("top_k", 0, 64), ("max_tokens", 1, 2**20))
        for name, low, high in (*limits, ("slots", 1, 1024)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} = {value}: must be from {low} to {high}")
        for name in ("dispatch_dtype", "combine_dtype"):
            if getattr(self, name) not in DTYPE_CODES:
                known = ", ".join(map(str, DTYPE_CODES))
                raise ValueError(f"{name} = {getattr(self, name)}: must be one of {known}")
        if self.channel_bytes > MAX_CHANNEL_BYTES:
            raise ValueError(
                f"max_tokens = {self.max_tokens}, slots = {self.slots}: a channel of "
                f"{self.channel_bytes} bytes exceeds {MAX_CHANNEL_BYTES}; take smaller ones"
            )

    @cached_property
    def dispatch(self) -> Sections:
        """Sections of an attention-to-FFN slot."""
        expert_ids = ALIGNMENT
        weights = _align(expert_ids + self.max_tokens * self.top_k * 4)
        hidden = _align(weights + self.max_tokens * self.top_k * 4)
        end = hidden + self.max_tokens * self.hidden * self.dispatch_dtype.itemsize
        return Sections(expert_ids, weights, hidden, _align(end))

    @cached_property
    def combine(self) -> Sections:
        """Sections of an FFN-to-attention slot: no routing goes back."""
        end = ALIGNMENT + self.max_tokens * self.hidden * self.combine_dtype.itemsize
        return Sections(0, 0, ALIGNMENT, _align(end))

    @property
    def channel_bytes(self) -> int:
        """Payload memory of a channel, both directions."""
        return self.slots * (self.dispatch.slot_bytes + self.combine.slot_bytes)

    def describe(self) -> str:
        """Every number that both ends must agree on, for messages and for the hash."""
        return (
            f"hidden={self.hidden} top_k={self.top_k} max_tokens={self.max_tokens} "
            f"slots={self.slots} dispatch={dtype_name(self.dispatch_dtype)} "
            f"combine={dtype_name(self.combine_dtype)}"
        )

    @cached_property
    def dims_hash(self) -> str:
        """16 hexadecimal digits; equal hashes mean equal memory layouts."""
        text = f"step3 data plane {PROTOCOL_VERSION} {self.describe()}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def dtype_name(dtype: torch.dtype) -> str:
    """torch.float32 -> "float32"."""
    return str(dtype).removeprefix("torch.")


def dtype_of(name: str) -> torch.dtype:
    """The inverse of `dtype_name`.

    Raises:
      ValueError: the data plane does not carry that type.
    """
    for dtype in DTYPE_CODES:
        if dtype_name(dtype) == name:
            return dtype
    known = ", ".join(map(dtype_name, DTYPE_CODES))
    raise ValueError(f"data type {name!r}: the data plane carries {known}")


def _align(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
