"""Slots of a channel's memory as tensors, and the messages that arrive in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shared.dataplane.header import Header
from shared.dataplane.layout import Layout, Sections

# Dimension key: T tokens of the message, H hidden, K experts chosen per token


class Slot:
    """Tensor views of one slot, cut to the message's tokens.

    `expert_ids_TK` and `weights_TK` have no columns in combine slots.
    """

    __slots__ = ("_full", "expert_ids_TK", "hidden_TH", "index", "n_tokens", "offset", "weights_TK")

    def __init__(
        self, memory: memoryview, index: int, at: Sections, layout: Layout, dtype: torch.dtype
    ) -> None:
        self.index = index
        self.offset = index * at.slot_bytes
        T, H = layout.max_tokens, layout.hidden
        K = layout.top_k if at.expert_ids else 0

        def view(offset: int, width: int, dtype: torch.dtype) -> Tensor:
            if width == 0:
                return torch.empty(T, 0, dtype=dtype)
            flat = torch.frombuffer(
                memory, dtype=dtype, count=T * width, offset=self.offset + offset
            )
            return flat.view(T, width)

        self._full = (
            view(at.hidden, H, dtype),
            view(at.expert_ids, K, torch.int32),
            view(at.weights, K, torch.float32),
        )
        self.n_tokens = T
        self.hidden_TH, self.expert_ids_TK, self.weights_TK = self._full

    def resize(self, n_tokens: int) -> None:
        """Cut the views to `n_tokens`; decoding keeps one size for long, which costs nothing."""
        if n_tokens != self.n_tokens:
            hidden, expert_ids, weights = self._full
            self.hidden_TH = hidden[:n_tokens]
            self.expert_ids_TK = expert_ids[:n_tokens]
            self.weights_TK = weights[:n_tokens]
            self.n_tokens = n_tokens


@dataclass(slots=True, eq=False)
class Reply:
    """An arrived COMBINE or ERROR; its memory stays valid until `RequestChannel.release`."""

    header: Header
    slot: Slot

    @property
    def hidden_TH(self) -> Tensor:
        """One shard's part of the answer."""
        return self.slot.hidden_TH


@dataclass(slots=True, eq=False)
class Request:
    """An arrived DISPATCH, in place, and the slot that its answer is computed into."""

    header: Header
    slot: Slot
    answer: Slot
    received_ns: int
    answered: bool = False

    @property
    def hidden_TH(self) -> Tensor:
        """Normalised hidden states."""
        return self.slot.hidden_TH

    @property
    def expert_ids_TK(self) -> Tensor | None:
        """int32, or None on a dense layer."""
        return self.slot.expert_ids_TK if self.header.top_k else None

    @property
    def weights_TK(self) -> Tensor | None:
        """float32, or None on a dense layer."""
        return self.slot.weights_TK if self.header.top_k else None

    @property
    def answer_TH(self) -> Tensor:
        """Write this shard's part of the FFN's output here."""
        return self.answer.hidden_TH
