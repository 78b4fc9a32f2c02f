"""Routed experts: softmax router over all experts, then top-k (Step3 report, section 3).

The k chosen probabilities are used as they are, so they sum to less than one. The shared expert
is a plain SwiGLU beside this module (decoder.py adds both).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.model.config import TextConfig
from shared.model.mlp import swiglu

# Dimension key: T tokens, H hidden, I expert intermediate, E experts, K experts chosen per token,
# M = T*K (token, expert) rows sorted by expert


def router(logits_TE: Tensor, k: int, renormalize: bool = False) -> tuple[Tensor, Tensor]:
    """The k most probable experts of each token: weights [T, K] float32 and ids [T, K] int64."""
    probabilities_TE = logits_TE.float().softmax(dim=-1)
    weights_TK, ids_TK = probabilities_TE.topk(k, dim=-1)
    if renormalize:
        weights_TK = weights_TK / weights_TK.sum(dim=-1, keepdim=True)
    return weights_TK, ids_TK


def experts_loop(
    x_TH: Tensor,
    weights_TK: Tensor,
    ids_TK: Tensor,
    gate_EIH: Tensor,
    up_EIH: Tensor,
    down_EHI: Tensor,
) -> Tensor:
    """Sum over the chosen experts, one expert after the other: the reference, any shape."""
    out_TH = torch.zeros_like(x_TH)
    for expert in range(gate_EIH.shape[0]):
        rows, slots = (ids_TK == expert).nonzero(as_tuple=True)
        y_MH = swiglu(x_TH[rows], gate_EIH[expert], up_EIH[expert], down_EHI[expert])
        y_MH = y_MH * weights_TK[rows, slots, None].to(y_MH.dtype)
        out_TH = out_TH.index_add(0, rows, y_MH)
    return out_TH


def experts_grouped(
    x_TH: Tensor,
    weights_TK: Tensor,
    ids_TK: Tensor,
    gate_EIH: Tensor,
    up_EIH: Tensor,
    down_EHI: Tensor,
) -> Tensor:
    """The same sum with three grouped GEMMs over rows sorted by expert (`can_group` holds)."""
    flat_ids_M = ids_TK.flatten()
    order_M = flat_ids_M.argsort(stable=True)
    # Row m of the sorted order belongs to token order[m] // K.
    rows_MH = x_TH[order_M // ids_TK.shape[1]]
    experts_E = torch.arange(gate_EIH.shape[0], device=x_TH.device)
    ends_E = torch.searchsorted(flat_ids_M[order_M], experts_E, right=True).to(torch.int32)

    gate_MI = F.grouped_mm(rows_MH, gate_EIH.transpose(1, 2), offs=ends_E)
    up_MI = F.grouped_mm(rows_MH, up_EIH.transpose(1, 2), offs=ends_E)
    y_MH = F.grouped_mm(F.silu(gate_MI) * up_MI, down_EHI.transpose(1, 2), offs=ends_E)

    y_TKH = y_MH[order_M.argsort()].view(*ids_TK.shape, -1)
    # The product's gradient is a real tensor; the sum alone would hand grouped_mm an expanded
    # one, which its CPU backward refuses.
    return (y_TKH * weights_TK.unsqueeze(-1).to(y_TKH.dtype)).sum(dim=1)


def can_group(x_TH: Tensor, gate_EIH: Tensor) -> bool:
    """Whether grouped_mm takes these operands: rows, 16-byte aligned strides, a known dtype."""
    aligned = all(
        size * x_TH.element_size() % 16 == 0 for size in (gate_EIH.shape[1], gate_EIH.shape[2])
    )
    known = x_TH.dtype == torch.bfloat16 or (
        x_TH.dtype == torch.float32 and x_TH.device.type == "cpu"
    )
    return x_TH.shape[0] > 0 and aligned and known


class StackedLinear(nn.Module):
    """One matrix for each expert, stored as one tensor [E, out, in]."""

    def __init__(self, experts: int, out_features: int, in_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, out_features, in_features))
        nn.init.normal_(self.weight, std=in_features**-0.5)


class MoE(nn.Module):
    """Router and routed experts of one layer. A hook on `gate` sees the router's logits."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        experts, hidden = config.moe_num_experts, config.hidden_size
        intermediate = config.moe_intermediate_size
        self.top_k = config.moe_top_k
        self.renormalize = config.norm_expert_weight
        self.gate = nn.Linear(hidden, experts, bias=False)
        self.gate_proj = StackedLinear(experts, intermediate, hidden)
        self.up_proj = StackedLinear(experts, intermediate, hidden)
        self.down_proj = StackedLinear(experts, hidden, intermediate)

    def forward(self, x_BTH: Tensor) -> Tensor:
        x_TH = x_BTH.reshape(-1, x_BTH.shape[-1])
        weights_TK, ids_TK = router(self.gate(x_TH), self.top_k, self.renormalize)
        # Autocast knows linear layers only; grouped_mm wants all operands in one dtype.
        device = x_TH.device.type
        if torch.is_autocast_enabled(device):
            x_TH = x_TH.to(torch.get_autocast_dtype(device))
        gate, up, down = (
            module.weight.to(x_TH.dtype)
            for module in (self.gate_proj, self.up_proj, self.down_proj)
        )
        experts = experts_grouped if can_group(x_TH, gate) else experts_loop
        out_TH = experts(x_TH, weights_TK, ids_TK, gate, up, down)
        return out_TH.view(x_BTH.shape)
