"""The attention side of the model: embedding, every layer's attention, the head.

The FFN of each layer goes through an `FfnBackend`. Micro-batches take turns: while one's FFN is
being computed elsewhere, the next one's attention runs here (Step-3 report, section 7: the
multi-stage pipeline).

Dimension key: T tokens of a micro-batch, H hidden, S rows that sample, V vocabulary, F image tokens
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from shared.ffn.backend import FfnBackend, Ticket
from shared.kernels import AttentionBatch, AttentionDims, AttentionWeights, Kernels, KvCache
from shared.model.checkpoint import Checkpoint
from shared.model.rope import rope_tables


@dataclass(frozen=True, slots=True)
class MicroBatch:
    token_ids_T: Tensor  # int64
    batch: AttentionBatch
    # int32: the tokens after which a new one is sampled.
    sample_rows_S: Tensor
    # Features that replace embeddings, and the tokens that they replace.
    image_features_FH: Tensor | None = None
    image_rows_F: Tensor | None = None


class Decoder:
    def __init__(
        self, checkpoint: Checkpoint, kernels: Kernels, *, num_blocks: int, block_size: int
    ) -> None:
        config = checkpoint.config.text
        self.config = config
        dims = AttentionDims.of(config)
        cos_PC, sin_PC = rope_tables(
            torch.arange(config.max_position_embedding), config.head_dim, config.rope_theta
        )
        self._embedding_VH = checkpoint.get("model.embed_tokens.weight", torch.float32)
        self._layers = [
            kernels.attention_layer(dims, _weights(checkpoint, layer), cos_PC, sin_PC)
            for layer in range(config.num_hidden_layers)
        ]
        self._head = kernels.head(
            checkpoint.get("model.norm.weight", torch.float32),
            checkpoint.get("lm_head.weight", torch.float32),
            config.rms_norm_eps,
        )
        self._caches = [
            KvCache(num_blocks, block_size, config.head_dim)
            for _ in range(config.num_hidden_layers)
        ]

    @torch.inference_mode()
    def step(self, number: int, micro_batches: list[MicroBatch], ffn: FfnBackend) -> Tensor:
        """Logits [S, V] of all rows that sample, in the order of the micro-batches.

        The keys and values of every token are in the cache afterwards. Running the same step
        again gives the same result: a step that failed may be repeated.
        """
        hidden = [self._embed(micro_batch) for micro_batch in micro_batches]
        tickets: list[Ticket | None] = [None] * len(micro_batches)
        for number_of_layer, layer in enumerate(self._layers):
            for i, micro_batch in enumerate(micro_batches):
                ticket = tickets[i]
                ffn_out_TH = None if ticket is None else ffn.collect(ticket)
                normed_TH, routing = layer(
                    hidden[i], ffn_out_TH, micro_batch.batch, self._caches[number_of_layer]
                )
                tickets[i] = ffn.dispatch(number, number_of_layer, i, normed_TH, routing)
        logits = []
        for i, micro_batch in enumerate(micro_batches):
            ticket = tickets[i]
            assert ticket is not None
            ffn_out_TH = ffn.collect(ticket)
            logits.append(self._head(hidden[i], ffn_out_TH, micro_batch.sample_rows_S))
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    def _embed(self, micro_batch: MicroBatch) -> Tensor:
        hidden_TH = F.embedding(micro_batch.token_ids_T, self._embedding_VH)
        if micro_batch.image_rows_F is not None:
            assert micro_batch.image_features_FH is not None
            hidden_TH[micro_batch.image_rows_F] = micro_batch.image_features_FH
        return hidden_TH


def _weights(checkpoint: Checkpoint, layer: int) -> AttentionWeights:
    prefix = f"model.layers.{layer}"

    def read(name: str) -> Tensor:
        return checkpoint.get(f"{prefix}.{name}.weight", torch.float32)

    return AttentionWeights(
        input_norm_H=read("input_layernorm"),
        q_proj_RH=read("self_attn.q_proj"),
        k_proj_CH=read("self_attn.k_proj"),
        v_proj_CH=read("self_attn.v_proj"),
        inter_norm_R=read("self_attn.inter_norm"),
        wq_OR=read("self_attn.wq"),
        o_proj_HO=read("self_attn.o_proj"),
        post_norm_H=read("post_attention_layernorm"),
        gate_EH=read("moe.gate") if checkpoint.config.text.is_moe(layer) else None,
    )
