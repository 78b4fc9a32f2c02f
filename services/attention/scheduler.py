"""What the next step reads: continuous batching with chunked prefill.

Every step takes one token of each sequence that is decoding, then fills what is left of the
budget with chunks of prompts. A sequence that finds no free block makes the youngest running one
give its blocks back; that one is read again later, from its first token.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch

from services.attention.blocks import BlockPool
from services.attention.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens [sequence.num_computed, + length) of a sequence."""

    sequence: Sequence
    length: int

    @property
    def samples(self) -> bool:
        """Whether the chunk ends where the next token is unknown."""
        return self.length == self.sequence.num_pending


class Scheduler:
    def __init__(
        self, pool: BlockPool, *, max_running: int, max_step_tokens: int, context_tokens: int
    ) -> None:
        self.pool = pool
        self.max_step_tokens = max_step_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        max_blocks = pool.blocks_for(context_tokens)
        # One row a running sequence; kernels read the table in place.
        self.block_tables = np.zeros((max_running, max_blocks), dtype=np.int32)
        self.block_tables_SM = torch.from_numpy(self.block_tables)
        self._free_rows = list(range(max_running - 1, -1, -1))
        self.num_preemptions = 0

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def schedule(self) -> list[Chunk]:
        """The chunks of the next step; every one has its blocks."""
        budget = self.max_step_tokens
        chunks: list[Chunk] = []
        # Decoding sequences first: they are short and somebody is reading along.
        for sequence in sorted(self.running, key=lambda s: s.num_pending > 1):
            if sequence.row < 0:
                continue  # gave its blocks back during this loop
            length = min(sequence.num_pending, budget)
            if length and self._make_room(sequence, length, chunks):
                chunks.append(Chunk(sequence, length))
                budget -= length
        while budget and self.waiting and self._free_rows:
            sequence = self.waiting[0]
            length = min(sequence.num_pending, budget)
            if not self.pool.grow(sequence, length):
                break
            self.waiting.popleft()
            self._admit(sequence)
            chunks.append(Chunk(sequence, length))
            budget -= length
        for chunk in chunks:
            blocks = chunk.sequence.blocks
            self.block_tables[chunk.sequence.row, : len(blocks)] = blocks
        return chunks

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is, and free what it holds."""
        if sequence.row >= 0:
            self._evict(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def _admit(self, sequence: Sequence) -> None:
        sequence.row = self._free_rows.pop()
        sequence.first_scheduled_s = sequence.first_scheduled_s or time.monotonic()
        self.running.append(sequence)

    def _evict(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.block_tables[sequence.row] = 0
        self._free_rows.append(sequence.row)
        sequence.row = -1
        self.pool.release(sequence)

    def _make_room(self, sequence: Sequence, length: int, chunks: list[Chunk]) -> bool:
        """Blocks for a running sequence's chunk, taken from the youngest ones if need be."""
        while not self.pool.grow(sequence, sequence.num_computed + length):
            victim = self.running[-1]
            self._evict(victim)
            victim.num_computed = 0
            self.waiting.appendleft(victim)
            self.num_preemptions += 1
            chunks[:] = [chunk for chunk in chunks if chunk.sequence is not victim]
            if victim is sequence:
                return False
        return True
