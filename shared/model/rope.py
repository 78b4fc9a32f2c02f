"""Rotary position embedding (Su et al., 2021), half-split: channel i turns with channel i + C/2."""

from __future__ import annotations

import torch
from torch import Tensor

# Dimension key: B batch, T tokens, N heads, C head width, D = C/2 rotated pairs


def rope_tables(
    positions_BT: Tensor, head_dim: int, theta: float, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Cosines and sines [*positions, C/2] of position * theta^(-2i/C).

    Angles are float32 whatever the model's dtype: bfloat16 cannot count beyond 256.
    """
    exponents_D = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions_BT.device)
    inverse_frequencies_D = theta ** (-exponents_D / head_dim)
    angles_BTD = positions_BT.unsqueeze(-1).float() * inverse_frequencies_D
    return angles_BTD.cos().to(dtype), angles_BTD.sin().to(dtype)


def apply_rope(x_BTNC: Tensor, cos_BTD: Tensor, sin_BTD: Tensor) -> Tensor:
    """Rotate every head of `x_BTNC`; leading dimensions broadcast against the tables'."""
    cos_BT1D, sin_BT1D = cos_BTD.unsqueeze(-2), sin_BTD.unsqueeze(-2)
    first, second = x_BTNC.chunk(2, dim=-1)
    return torch.cat(
        (first * cos_BT1D - second * sin_BT1D, second * cos_BT1D + first * sin_BT1D), dim=-1
    )
