"""Multi-matrix Factorization Attention (Hu et al., arXiv 2412.19255; Step3 report, section 4).

Queries go through one shared low-rank matrix S_q [H, r] and then one matrix Q_c [r, C] a head;
all heads share a single key and a single value head. The scores of 64 heads against one key
stream make decoding a GEMM: 128 FLOPs for each byte of an 8-bit cache.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from shared.model.cache import KVCache
from shared.model.config import TextConfig
from shared.model.norm import RMSNorm
from shared.model.rope import apply_rope

# Dimension key: B batch, T new tokens, S tokens attended, H hidden, R low-rank query width,
# N query heads, C head width, D = C/2


class MFA(nn.Module):
    def __init__(self, config: TextConfig, layer: int) -> None:
        super().__init__()
        hidden, rank, heads = config.hidden_size, config.share_q_dim, config.num_attention_heads
        self.layer = layer
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(hidden, rank, bias=False)
        self.k_proj = nn.Linear(hidden, self.head_dim, bias=False)
        self.v_proj = nn.Linear(hidden, self.head_dim, bias=False)
        self.inter_norm = RMSNorm(rank, config.rms_norm_eps)
        self.wq = nn.Linear(rank, heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * self.head_dim, hidden, bias=False)

    def forward(
        self,
        x_BTH: Tensor,
        rope: tuple[Tensor, Tensor],
        mask_BTS: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Attention output [B, T, H], before the residual.

        Args:
          x_BTH: normalised hidden states.
          rope: cosines and sines [B, T, C/2] (`rope_tables`).
          mask_BTS: True where a token may look; None: at itself and all before it.
          cache: keys and values of earlier tokens; takes the new ones.
        """
        q_low_BTR = self.inter_norm(self.q_proj(x_BTH))
        q_BTNC = self.wq(q_low_BTR).unflatten(-1, (-1, self.head_dim))
        k_BTC, v_BSC = self.k_proj(x_BTH), self.v_proj(x_BTH)

        q_BTNC = apply_rope(q_BTNC, *rope)
        k_BSC = apply_rope(k_BTC.unsqueeze(-2), *rope).squeeze(-2)
        if cache is not None:
            k_BSC, v_BSC = cache.append(self.layer, k_BSC, v_BSC)

        tokens, heads = q_BTNC.shape[1:3]
        # Views: one stored head stands for all. The cache may be of another dtype.
        k_BNSC, v_BNSC = (
            head_BSC.to(q_BTNC.dtype).unsqueeze(1).expand(-1, heads, -1, -1)
            for head_BSC in (k_BSC, v_BSC)
        )
        out_BNTC = F.scaled_dot_product_attention(
            q_BTNC.transpose(1, 2),
            k_BNSC,
            v_BNSC,
            attn_mask=None if mask_BTS is None else mask_BTS.unsqueeze(1),
            is_causal=mask_BTS is None and tokens > 1,
        )
        out_BTH: Tensor = self.o_proj(out_BNTC.transpose(1, 2).flatten(-2))
        return out_BTH
