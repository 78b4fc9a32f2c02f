"""Greedy generation in one process: what every faster engine is judged by."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.model.cache import KVCache
from shared.model.step3 import Step3ForConditionalGeneration

# Dimension key: T tokens read in one step, F image tokens, H hidden, V vocabulary


@dataclass(frozen=True, slots=True)
class Step:
    """One token, and the logits of the forward pass that gave it: the last row chose it."""

    token_id: int
    # The first step has a row for each prompt token, later ones have one row.
    logits_TV: Tensor


@torch.inference_mode()
def generate(
    model: Step3ForConditionalGeneration,
    prompt_ids: Sequence[int],
    image_features_FH: Tensor | None = None,
    *,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
) -> Iterator[Step]:
    """Read the prompt once, then one token a step; a stop token is yielded and ends it.

    Args:
      model: on its device, in its dtype.
      prompt_ids: expanded (`expand_prompt`), at least one.
      image_features_FH: for the `<im_patch>` tokens, in order.
      max_new_tokens: at least one.
      stop_ids: usually the end-of-sequence id.

    Raises:
      ValueError: the prompt is empty, or prompt and new tokens exceed the model's context.
    """
    limit = model.config.text.max_position_embedding
    if not prompt_ids:
        raise ValueError("prompt_ids: is empty; give at least one token")
    if len(prompt_ids) + max_new_tokens > limit:
        raise ValueError(
            f"prompt_ids: {len(prompt_ids)} tokens and {max_new_tokens} new ones exceed the "
            f"model's context of {limit}"
        )
    weight = model.lm_head.weight
    cache = KVCache(
        model.config.text,
        len(prompt_ids) + max_new_tokens,
        dtype=weight.dtype,
        device=weight.device,
    )
    ids_T = torch.tensor(prompt_ids, device=weight.device)
    for _ in range(max_new_tokens):
        logits_TV = model(ids_T, image_features_FH, cache=cache)
        token_id = int(logits_TV[-1].argmax())
        yield Step(token_id, logits_TV)
        if token_id in stop_ids:
            return
        ids_T, image_features_FH = torch.tensor([token_id], device=weight.device), None
