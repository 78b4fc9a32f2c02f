"""What the next step reads: continuous batching with chunked prefill and priorities.

Every step takes one token of each sequence that is decoding, then fills what is left of the
budget with chunks of prompts. Sequences are ranked by priority, then by arrival. One that finds no
free block makes the last-ranked running one give its blocks back; that one waits in its old rank
and is read again, as far as the cache has forgotten it. The first-ranked is never made to wait and
fits the cache alone, so that something always ends.
"""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Iterable
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
    """Decides who runs, and who has to give way.

    Attributes:
      waiting, running: each in the order of rank.
      num_preemptions: how often a running sequence had to give way, so far.
    """

    def __init__(
        self, pool: BlockPool, *, max_running: int, max_step_tokens: int, context_tokens: int
    ) -> None:
        self.pool = pool
        self.max_step_tokens = max_step_tokens
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        max_blocks = pool.blocks_for(context_tokens)
        # One row a running sequence; kernels read the table in place.
        self.block_tables = np.zeros((max_running, max_blocks), dtype=np.int32)
        self.block_tables_SM = torch.from_numpy(self.block_tables)
        self._free_rows = list(range(max_running - 1, -1, -1))
        self._num_arrived = 0
        self.num_preemptions = 0

    def add(self, sequence: Sequence) -> None:
        self._num_arrived += 1
        sequence.arrival = self._num_arrived
        insort(self.waiting, sequence, key=_rank)

    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def schedule(self) -> list[Chunk]:
        """The chunks of the next step; every one has its blocks."""
        lengths: dict[Sequence, int] = {}
        # Decoding sequences first: they are short and somebody is reading along.
        for sequence in [s for s in self.running if s.num_pending == 1]:
            # One may have given its blocks back during this loop.
            if sequence.row >= 0 and self._make_room(sequence, lengths):
                lengths[sequence] = 1
        self._admit_waiting(lengths)
        budget = self.max_step_tokens - len(lengths)
        assert budget >= 0, "who decodes had a place in the step before"
        for sequence in self.running:
            if budget and sequence not in lengths:
                lengths[sequence] = min(sequence.num_pending, budget)
                budget -= lengths[sequence]
        return [Chunk(sequence, length) for sequence, length in lengths.items()]

    def advance(self, chunks: Iterable[Chunk]) -> None:
        """The step went through: the keys and values of its chunks are in the cache."""
        for chunk in chunks:
            chunk.sequence.num_computed += chunk.length
            self.pool.publish(chunk.sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is, and free what it holds."""
        if sequence.row >= 0:
            self._evict(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def _admit_waiting(self, decoding: dict[Sequence, int]) -> None:
        """Start waiting sequences, first rank first, until one finds no place in the step."""
        budget = self.max_step_tokens - len(decoding)
        while self.waiting:
            sequence = self.waiting[0]
            ahead = sum(
                s.num_pending
                for s in self.running
                if s not in decoding and _rank(s) < _rank(sequence)
            )
            if ahead >= budget or not self._admit(sequence, decoding):
                return

    def _admit(self, sequence: Sequence, decoding: dict[Sequence, int]) -> bool:
        """Start one, in place of running ones of lower priority if need be."""
        lower = [s for s in self.running if s.priority < sequence.priority]
        missing = self.pool.blocks_for(len(sequence.token_ids))
        while not (self._free_rows and self.pool.admit(sequence)):
            # In vain if even all that they hold would not do.
            if not lower or missing > self.pool.num_free + sum(len(s.blocks) for s in lower):
                return False
            self._preempt(lower.pop(), decoding)
        self.waiting.remove(sequence)
        sequence.row = self._free_rows.pop()
        if sequence.first_scheduled_s is None:
            sequence.first_scheduled_s = time.monotonic()
            sequence.cached_tokens = sequence.num_computed
        insort(self.running, sequence, key=_rank)
        self._write_table(sequence)
        return True

    def _make_room(self, sequence: Sequence, decoding: dict[Sequence, int]) -> bool:
        """A block for a decoding sequence's token, taken from the last-ranked if need be.

        Prompts need none: they have got all their blocks when they were admitted.
        """
        num_blocks = len(sequence.blocks)
        while not self.pool.grow(sequence, len(sequence.token_ids)):
            victim = self.running[-1]
            self._preempt(victim, decoding)
            if victim is sequence:
                return False
        if len(sequence.blocks) > num_blocks:
            self._write_table(sequence)
        return True

    def _write_table(self, sequence: Sequence) -> None:
        self.block_tables[sequence.row, : len(sequence.blocks)] = sequence.blocks

    def _preempt(self, victim: Sequence, decoding: dict[Sequence, int]) -> None:
        self._evict(victim)
        insort(self.waiting, victim, key=_rank)
        self.num_preemptions += 1
        decoding.pop(victim, None)

    def _evict(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.block_tables[sequence.row] = 0
        self._free_rows.append(sequence.row)
        sequence.row = -1
        self.pool.release(sequence)


def _rank(sequence: Sequence) -> tuple[int, int]:
    return -sequence.priority, sequence.arrival
