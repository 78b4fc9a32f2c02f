"""The blocks of the paged KV cache: who holds which."""

from __future__ import annotations

from services.attention.sequence import Sequence


class BlockPool:
    """Hands out block numbers. Block 0 is never handed out: unused table entries point to it."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        assert num_blocks >= 2, num_blocks
        self.block_size = block_size
        self.capacity = num_blocks - 1
        self._free = list(range(num_blocks - 1, 0, -1))

    @property
    def num_used(self) -> int:
        return self.capacity - len(self._free)

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Make room for `num_tokens` in all; False, and nothing changed, if there is none."""
        missing = self.blocks_for(num_tokens) - len(sequence.blocks)
        if missing > len(self._free):
            return False
        for _ in range(missing):
            sequence.blocks.append(self._free.pop())
        return True

    def release(self, sequence: Sequence) -> None:
        self._free.extend(reversed(sequence.blocks))
        sequence.blocks.clear()
