"""The plain PyTorch form of every operation: what the fast twins are tested against.

Dimension key: T tokens, H hidden, N query heads, C head dim, D = C/2, S tokens attended,
P tokens of a cache block, B cache blocks, V vocabulary
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from shared.ffn.backend import Routing
from shared.kernels.api import AttentionBatch, AttentionDims, AttentionWeights, FfnWeights, KvCache
from shared.model.mlp import swiglu
from shared.model.moe import experts_loop, router
from shared.model.norm import rms_norm
from shared.model.rope import apply_rope


class ReferenceAttentionLayer:
    def __init__(
        self, dims: AttentionDims, weights: AttentionWeights, cos_PC: Tensor, sin_PC: Tensor
    ) -> None:
        self._dims = dims
        self._w = weights
        self._cos_PD, self._sin_PD = cos_PC, sin_PC

    def __call__(
        self, hidden_TH: Tensor, ffn_out_TH: Tensor | None, batch: AttentionBatch, cache: KvCache
    ) -> tuple[Tensor, Routing | None]:
        w, eps = self._w, self._dims.eps
        if ffn_out_TH is not None:
            hidden_TH += ffn_out_TH
        x_TH = rms_norm(hidden_TH, w.input_norm_H, eps)
        hidden_TH += F.linear(self._attend(x_TH, batch, cache), w.o_proj_HO)
        normed_TH = rms_norm(hidden_TH, w.post_norm_H, eps)
        if w.gate_EH is None:
            return normed_TH, None
        weights_TK, ids_TK = router(
            F.linear(normed_TH, w.gate_EH), self._dims.top_k, self._dims.norm_expert_weight
        )
        return normed_TH, Routing(ids_TK.to(torch.int32), weights_TK)

    def _attend(self, x_TH: Tensor, batch: AttentionBatch, cache: KvCache) -> Tensor:
        w, block_size = self._w, cache.block_size
        positions_T, sequences_T = batch.positions_T.long(), batch.sequences_T.long()
        rope = self._cos_PD[positions_T], self._sin_PD[positions_T]
        q_low_TR = rms_norm(F.linear(x_TH, w.q_proj_RH), w.inter_norm_R, self._dims.eps)
        q_TNC = F.linear(q_low_TR, w.wq_OR).view(-1, self._dims.heads, self._dims.head_dim)
        q_TNC = apply_rope(q_TNC, *rope)
        k_TC = apply_rope(F.linear(x_TH, w.k_proj_CH).unsqueeze(1), *rope).squeeze(1)

        blocks_T = batch.block_tables_SM[sequences_T, positions_T // block_size].long()
        cache.keys_BCP[blocks_T, :, positions_T % block_size] = k_TC
        cache.values_BPC[blocks_T, positions_T % block_size] = F.linear(x_TH, w.v_proj_CH)

        out_TNC = torch.empty_like(q_TNC)
        for t, (sequence, position) in enumerate(
            zip(sequences_T.tolist(), positions_T.tolist(), strict=True)
        ):
            table = batch.block_tables_SM[sequence, : position // block_size + 1].long()
            k_SC = cache.keys_BCP[table].transpose(1, 2).flatten(0, 1)[: position + 1]
            v_SC = cache.values_BPC[table].flatten(0, 1)[: position + 1]
            scores_NS = q_TNC[t] @ k_SC.T * self._dims.head_dim**-0.5
            out_TNC[t] = scores_NS.softmax(-1) @ v_SC
        return out_TNC.flatten(1)


class ReferenceFfnLayer:
    def __init__(self, weights: FfnWeights) -> None:
        self._w = weights

    def __call__(self, normed_TH: Tensor, routing: Routing | None, out_TH: Tensor) -> None:
        w = self._w
        out_TH.zero_()
        if routing is not None and w.gate_EIH is not None:
            assert w.up_EIH is not None and w.down_EHI is not None
            out_TH += experts_loop(
                normed_TH,
                routing.weights_TK,
                routing.expert_ids_TK - w.first_expert,  # ids of other shards match no expert here
                w.gate_EIH,
                w.up_EIH,
                w.down_EHI,
            )
        if w.shared_gate_IH is not None:
            assert w.shared_up_IH is not None and w.shared_down_HI is not None
            out_TH += swiglu(normed_TH, w.shared_gate_IH, w.shared_up_IH, w.shared_down_HI)


class ReferenceHead:
    def __init__(self, norm_H: Tensor, weight_VH: Tensor, eps: float) -> None:
        self._norm_H, self._weight_VH, self._eps = norm_H, weight_VH, eps

    def __call__(self, hidden_TH: Tensor, ffn_out_TH: Tensor, rows_S: Tensor) -> Tensor:
        rows = rows_S.long()
        x_SH = rms_norm(hidden_TH[rows] + ffn_out_TH[rows], self._norm_H, self._eps)
        return F.linear(x_SH, self._weight_VH)
