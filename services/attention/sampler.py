"""The next token of each sequence from its logits."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch
from torch import Tensor

from services.attention.sequence import Sequence

# Dimension key: S sequences, V vocabulary


def sample(logits_SV: Tensor, sequences: Rows[Sequence]) -> list[int]:
    """One token id for each row. A row's choice depends on its own logits and generator only."""
    greedy: list[int] = logits_SV.argmax(dim=-1).tolist()
    return [
        _draw(logits_SV[row], sequence) if sequence.generator is not None else greedy[row]
        for row, sequence in enumerate(sequences)
    ]


def _draw(logits_V: Tensor, sequence: Sequence) -> int:
    """Temperature, then top-k, top-p and min-p on what is left, then one draw."""
    sampling = sequence.sampling
    probs_V = torch.softmax(logits_V.float() / sampling.temperature, dim=-1)
    probs_V, ids_V = probs_V.sort(descending=True, stable=True)
    keep_V = torch.ones_like(probs_V, dtype=torch.bool)
    if sampling.top_k:
        keep_V[sampling.top_k :] = False
    if sampling.top_p < 1:
        # Up to and including the token that reaches top_p.
        kept_V = probs_V * keep_V
        kept_V = kept_V / kept_V.sum()
        keep_V &= kept_V.cumsum(0) - kept_V < sampling.top_p
    if sampling.min_p > 0:
        keep_V &= probs_V >= sampling.min_p * probs_V[0]
    keep_V[0] = True
    choice = torch.multinomial(probs_V * keep_V, 1, generator=sequence.generator)
    return int(ids_V[choice])
