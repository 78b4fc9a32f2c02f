"""The key-value cache of one-process decoding: contiguous, allocated once.

MFA has one key head and one value head, so a token costs 2 * C elements a layer: 512 in Step3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shared.model.config import TextConfig

# Dimension key: L layers, B batch, T new tokens, S tokens so far, C head width


class KVCache:
    """Rotated keys and values of all layers for sequences of equal length."""

    def __init__(
        self,
        config: TextConfig,
        max_tokens: int,
        *,
        batch: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (config.num_hidden_layers, batch, max_tokens, config.head_dim)
        self.keys_LBSC = torch.zeros(shape, dtype=dtype, device=device)
        self.values_LBSC = torch.zeros(shape, dtype=dtype, device=device)
        self.max_tokens = max_tokens
        # Tokens that every layer holds; `advance` moves it once a forward pass is through.
        self.length = 0

    def append(self, layer: int, k_BTC: Tensor, v_BTC: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens of `layer`; all its keys and values so far, [B, S, C] each."""
        end = self.length + k_BTC.shape[1]
        if end > self.max_tokens:
            raise ValueError(
                f"KV cache: {end} tokens do not fit the {self.max_tokens} it was made for"
            )
        self.keys_LBSC[layer, :, self.length : end] = k_BTC
        self.values_LBSC[layer, :, self.length : end] = v_BTC
        return self.keys_LBSC[layer, :, :end], self.values_LBSC[layer, :, :end]

    def advance(self, tokens: int) -> None:
        self.length += tokens
