"""One request inside the engine: its tokens, its place in the cache, and what was asked for."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import Tensor


class Finish(Enum):
    STOP = "stop"
    LENGTH = "length"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen; temperature 0 is greedy. Validated by the service."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int = 512
    stop_token_ids: frozenset[int] = frozenset()


@dataclass(eq=False, slots=True)
class Sequence:
    """State of one request. The engine thread owns it; others only set `aborted`."""

    request_id: str
    prompt_ids: list[int]
    sampling: Sampling
    # [image tokens in the prompt, H], in order of their positions.
    image_features: Tensor | None = None
    # Higher goes first.
    priority: int = 0
    arrival_s: float = field(default_factory=time.monotonic)

    token_ids: list[int] = field(init=False)
    # Tokens whose keys and values are in the cache.
    num_computed: int = 0
    blocks: list[int] = field(default_factory=list)
    # Names of its first full blocks, as many as were asked for; they stay when the blocks go.
    block_keys: list[bytes] = field(default_factory=list)
    # Of `blocks`, the first that the pool's index knows about.
    num_published: int = 0
    # Its number in the scheduler, in the order of arrival.
    arrival: int = 0
    # Row of the engine's block tables while running.
    row: int = -1
    aborted: bool = False
    first_scheduled_s: float | None = None
    # Prompt tokens that were in the cache when it was first scheduled.
    cached_tokens: int = 0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        assert self.prompt_ids, "a sequence has at least one token"
        self.token_ids = list(self.prompt_ids)
        if self.sampling.temperature > 0:
            self.generator = torch.Generator()
            if self.sampling.seed is None:
                self.generator.seed()
            else:
                self.generator.manual_seed(self.sampling.seed)

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - len(self.prompt_ids)

    @property
    def num_pending(self) -> int:
        """Tokens that must be read before the next one can be sampled."""
        return len(self.token_ids) - self.num_computed

    def finish_after(self, token_id: int, context_tokens: int) -> Finish | None:
        """Whether the sequence, `token_id` appended already, is done."""
        if token_id in self.sampling.stop_token_ids:
            return Finish.STOP
        if self.num_generated >= self.sampling.max_tokens:
            return Finish.LENGTH
        if len(self.token_ids) >= context_tokens:
            return Finish.LENGTH
        return None
