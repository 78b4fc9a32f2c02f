"""RMSNorm (Zhang and Sennrich, 2019) as Step3 computes it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Dimension key: ... any, D normalised width


def rms_norm(x_D: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Scale `x_D` by 1 / sqrt(mean(x^2) + eps) in float32, cast back, multiply by the weight."""
    x32_D = x_D.float()
    scale = torch.rsqrt(x32_D.square().mean(-1, keepdim=True) + eps)
    return (x32_D * scale).to(x_D.dtype) * weight_D


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x_D: Tensor) -> Tensor:
        return rms_norm(x_D, self.weight, self.eps)
