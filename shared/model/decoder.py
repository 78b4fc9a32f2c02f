"""The text model: pre-norm decoder layers of MFA and FFN (Step3 report, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shared.model.cache import KVCache
from shared.model.config import TextConfig
from shared.model.mfa import MFA
from shared.model.mlp import SwiGLU
from shared.model.moe import MoE
from shared.model.norm import RMSNorm
from shared.model.rope import rope_tables

# Dimension key: B batch, T new tokens, S tokens attended, H hidden


def attention_mask(
    tokens: int, past: int, document_ids_BT: Tensor | None, device: torch.device
) -> Tensor | None:
    """True where a new token may look, [B or 1, T, S]; None where plain causal attention is meant.

    Tokens see what comes before them; of packed documents, only their own.
    """
    if document_ids_BT is None and (past == 0 or tokens == 1):
        return None
    allowed_TS = torch.ones(tokens, past + tokens, dtype=torch.bool, device=device).tril(past)
    if document_ids_BT is None:
        return allowed_TS.unsqueeze(0)
    if past:
        raise ValueError("document_ids: cannot be combined with a cache that holds tokens")
    return allowed_TS & (document_ids_BT.unsqueeze(-1) == document_ids_BT.unsqueeze(-2))


class DecoderLayer(nn.Module):
    """h += MFA(norm(h)); h += FFN(norm(h)). FFN: dense, or routed experts plus a shared one."""

    def __init__(self, config: TextConfig, layer: int) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.input_layernorm = RMSNorm(hidden, config.rms_norm_eps)
        self.self_attn = MFA(config, layer)
        self.post_attention_layernorm = RMSNorm(hidden, config.rms_norm_eps)
        self.is_moe = config.is_moe(layer)
        if self.is_moe:
            self.moe = MoE(config)
            self.share_expert = SwiGLU(hidden, config.share_expert_dim)
        else:
            self.mlp = SwiGLU(hidden, config.intermediate_size)

    def forward(
        self,
        h_BTH: Tensor,
        rope: tuple[Tensor, Tensor],
        mask_BTS: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        h_BTH = h_BTH + self.self_attn(self.input_layernorm(h_BTH), rope, mask_BTS, cache)
        return h_BTH + self.ffn(self.post_attention_layernorm(h_BTH))

    def ffn(self, y_BTH: Tensor) -> Tensor:
        """FFN(y) of normalised hidden states, before the residual."""
        out_BTH: Tensor = (
            self.moe(y_BTH) + self.share_expert(y_BTH) if self.is_moe else self.mlp(y_BTH)
        )
        return out_BTH


class Step3TextModel(nn.Module):
    """Embedding table, decoder layers and final norm; lm_head is step3.py's."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        embeddings_BTH: Tensor,
        *,
        positions_BT: Tensor | None = None,
        document_ids_BT: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Hidden states [B, T, H] after the final norm.

        Args:
          embeddings_BTH: token embeddings, image features already in place.
          positions_BT: default: counted on from the cache's length.
          document_ids_BT: packed training rows: a token sees its own document only.
          cache: earlier tokens' keys and values; takes the new ones.
        """
        batch, tokens = embeddings_BTH.shape[:2]
        device = embeddings_BTH.device
        past = cache.length if cache is not None else 0
        if positions_BT is None:
            positions_BT = torch.arange(past, past + tokens, device=device).expand(batch, -1)
        rope = rope_tables(
            positions_BT, self.config.head_dim, self.config.rope_theta, embeddings_BTH.dtype
        )
        mask_BTS = attention_mask(tokens, past, document_ids_BT, device)

        h_BTH = embeddings_BTH
        for layer in self.layers:
            h_BTH = layer(h_BTH, rope, mask_BTS, cache)
        if cache is not None:
            cache.advance(tokens)
        normalised_BTH: Tensor = self.norm(h_BTH)
        return normalised_BTH
