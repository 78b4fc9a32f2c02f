"""From a request message to a sequence; everything that can be wrong with it is said here."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from step3.v1 import attention_pb2, common_pb2
from torch import Tensor

from services.attention.sequence import Sampling, Sequence
from shared.errors import InvalidArgument
from shared.rpc import tensors
from shared.settings import SamplingDefaults


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    vocab_size: int
    hidden: int
    context_tokens: int
    block_size: int
    image_token_id: int
    eos_token_id: int
    defaults: SamplingDefaults


def _invalid(field: str, message: str, reason: str = "INVALID_FIELD") -> InvalidArgument:
    return InvalidArgument(f"{field}: {message}", reason=reason, field=field)


def sequence_of(request: attention_pb2.GenerateTokensRequest, limits: Limits) -> Sequence:
    """The sequence that a request asks for.

    Raises:
      InvalidArgument: a field is out of range, or the prompt leaves no room for an answer.
    """
    ids = list(request.token_ids)
    if not ids:
        raise _invalid("token_ids", "is empty; give at least one token", "PROMPT_EMPTY")
    if len(ids) >= limits.context_tokens:
        raise _invalid(
            "token_ids",
            f"{len(ids)} tokens leave no room in the context of {limits.context_tokens}; "
            "shorten the prompt",
            "PROMPT_TOO_LONG",
        )
    for index, token_id in enumerate(ids):
        if not 0 <= token_id < limits.vocab_size:
            raise _invalid(
                f"token_ids[{index}]", f"{token_id} is not in 0..{limits.vocab_size - 1}"
            )
    return Sequence(
        request_id=request.request_id,
        prompt_ids=ids,
        sampling=_sampling(request.sampling, request.stop_token_ids, limits),
        image_features=_features(request, ids, limits),
        priority=request.priority,
    )


def _features(
    request: attention_pb2.GenerateTokensRequest, ids: list[int], limits: Limits
) -> Tensor | None:
    wanted = ids.count(limits.image_token_id)
    if not request.HasField("image_features"):
        if wanted:
            raise _invalid("image_features", f"are missing: token_ids hold {wanted} image tokens")
        return None
    features = tensors.unpack(request.image_features, "image_features").to(torch.float32)
    if tuple(features.shape) != (wanted, limits.hidden):
        raise _invalid(
            "image_features",
            f"have shape {list(features.shape)}; token_ids ask for {[wanted, limits.hidden]}",
        )
    return features


def _sampling(
    params: common_pb2.SamplingParams, stop_token_ids: object, limits: Limits
) -> Sampling:
    defaults = limits.defaults

    def value(name: str) -> float:
        return float(getattr(params if params.HasField(name) else defaults, name))  # type: ignore[arg-type]

    temperature, top_p, min_p = value("temperature"), value("top_p"), value("min_p")
    top_k, max_tokens = int(value("top_k")), int(value("max_tokens"))
    if not 0 <= temperature <= 100:
        raise _invalid("sampling.temperature", f"{temperature} is not in 0..100")
    if not 0 < top_p <= 1:
        raise _invalid("sampling.top_p", f"{top_p} is not in (0, 1]")
    if not 0 <= min_p <= 1:
        raise _invalid("sampling.min_p", f"{min_p} is not in 0..1")
    if top_k < 0:
        raise _invalid("sampling.top_k", f"{top_k} is negative; 0 keeps the whole vocabulary")
    if max_tokens < 1:
        raise _invalid("sampling.max_tokens", f"{max_tokens} is less than 1")
    return Sampling(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        seed=params.seed if params.HasField("seed") else None,
        max_tokens=max_tokens,
        stop_token_ids=frozenset({limits.eos_token_id, *stop_token_ids}),  # type: ignore[misc]
    )
