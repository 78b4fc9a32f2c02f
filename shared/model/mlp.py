"""SwiGLU (Shazeer, 2020): the dense FFN and the shared expert."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

# Dimension key: T tokens (any leading shape), H hidden, I intermediate


def swiglu(x_TH: Tensor, gate_IH: Tensor, up_IH: Tensor, down_HI: Tensor) -> Tensor:
    """down(silu(gate x) * (up x)), [T, H]."""
    return F.linear(F.silu(F.linear(x_TH, gate_IH)) * F.linear(x_TH, up_IH), down_HI)


class SwiGLU(nn.Module):
    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x_TH: Tensor) -> Tensor:
        return swiglu(x_TH, self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight)
