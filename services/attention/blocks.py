"""The blocks of the paged KV cache: who holds which, and what the idle ones still remember."""

from __future__ import annotations

from services.attention.prefix import BlockHasher
from services.attention.sequence import Sequence


class BlockPool:
    """Hands out block numbers. Block 0 is never handed out: unused table entries point to it.

    A full block is entered in an index under its name (see `BlockHasher`), so that sequences with
    the same beginning share it; nobody writes to it again. Blocks that nobody holds stay in the
    index until their room is needed, and the one that was released first goes first.

    Attributes:
      capacity: blocks in all.
      hit_tokens: tokens that did not have to be computed, so far.
    """

    def __init__(self, num_blocks: int, hasher: BlockHasher) -> None:
        assert num_blocks >= 2, num_blocks
        self.block_size = hasher.block_size
        self.capacity = num_blocks - 1
        self.hit_tokens = 0
        self._hasher = hasher
        self._holders = [0] * num_blocks
        self._empty = list(range(num_blocks - 1, 0, -1))
        # Named blocks without a holder, in the order of their release.
        self._idle: dict[int, None] = {}
        self._index: dict[bytes, int] = {}
        self._keys: dict[int, bytes] = {}

    @property
    def num_free(self) -> int:
        return len(self._empty) + len(self._idle)

    @property
    def num_used(self) -> int:
        return self.capacity - self.num_free

    @property
    def num_cached(self) -> int:
        """Blocks that another sequence with the same beginning would find."""
        return len(self._index)

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def admit(self, sequence: Sequence) -> bool:
        """Blocks for all of a sequence's tokens, as many of them as possible already computed.

        The last token is always left to compute: the next one is sampled from what it gives.
        False, and nothing changed, if there is no room.
        """
        assert not sequence.blocks and sequence.num_computed == 0
        if not self.num_free:
            return False
        num_tokens = len(sequence.token_ids)
        cached = self._find(sequence, (num_tokens - 1) // self.block_size)
        missing = self.blocks_for(num_tokens) - len(cached)
        if missing > self.num_free - sum(block in self._idle for block in cached):
            return False
        for block in cached:
            self._hold(sequence, block)
        grown = self.grow(sequence, num_tokens)
        assert grown, "counted above"
        sequence.num_published = len(cached)
        sequence.num_computed = len(cached) * self.block_size
        self.hit_tokens += sequence.num_computed
        return True

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Make room for `num_tokens` in all; False, and nothing changed, if there is none."""
        missing = self.blocks_for(num_tokens) - len(sequence.blocks)
        if missing <= 0:
            return True
        if missing > self.num_free:
            return False
        for _ in range(missing):
            self._hold(sequence, self._empty.pop() if self._empty else self._forget_oldest())
        return True

    def publish(self, sequence: Sequence) -> None:
        """Enter the blocks in the index that the sequence has filled since the last call."""
        full = sequence.num_computed // self.block_size
        if full == sequence.num_published:
            return
        self._hasher.extend(sequence, full)
        for i in range(sequence.num_published, full):
            key, block = sequence.block_keys[i], sequence.blocks[i]
            # A neighbour may have computed the same at the same time: one is enough.
            if key not in self._index:
                self._index[key] = block
                self._keys[block] = key
        sequence.num_published = full

    def release(self, sequence: Sequence) -> None:
        """Take all blocks back. The last go idle first: without the first they are of no use."""
        for block in reversed(sequence.blocks):
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if block in self._keys:
                self._idle[block] = None
            else:
                self._empty.append(block)
        sequence.blocks.clear()
        sequence.num_published = sequence.num_computed = 0

    def _find(self, sequence: Sequence, num_blocks: int) -> list[int]:
        """The computed blocks that a sequence begins with, `num_blocks` at most."""
        self._hasher.extend(sequence, num_blocks)
        found = []
        for key in sequence.block_keys[:num_blocks]:
            block = self._index.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def _hold(self, sequence: Sequence, block: int) -> None:
        self._idle.pop(block, None)
        self._holders[block] += 1
        sequence.blocks.append(block)

    def _forget_oldest(self) -> int:
        block = next(iter(self._idle))
        del self._idle[block]
        del self._index[self._keys.pop(block)]
        return block
