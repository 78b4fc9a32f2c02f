"""Names of full cache blocks: two blocks of one name hold the same keys and values."""

from __future__ import annotations

from array import array
from hashlib import blake2b

from services.attention.sequence import Sequence

_KEY_BYTES = 32


class BlockHasher:
    """Names a block by a hash of its tokens and of the name of the block before it.

    Keys and values depend on every token up to theirs, hence the chain. An image token's id is only
    a placeholder: its features are hashed too, so that another image makes another name. The hash
    is a cryptographic one, because a collision would show one caller's context to another.
    """

    def __init__(self, block_size: int, image_token_id: int) -> None:
        self.block_size = block_size
        self._image_token_id = image_token_id

    def extend(self, sequence: Sequence, num_blocks: int) -> None:
        """Have `sequence.block_keys` name its first `num_blocks` blocks, which are full."""
        size, keys = self.block_size, sequence.block_keys
        assert num_blocks * size <= len(sequence.token_ids), "a block is named once it is full"
        prompt, features_FH = sequence.prompt_ids, sequence.image_features
        first = len(keys) * size
        image = 0 if features_FH is None else prompt[:first].count(self._image_token_id)
        for start in range(first, num_blocks * size, size):
            content = blake2b(keys[-1] if keys else b"", digest_size=_KEY_BYTES)
            content.update(array("q", sequence.token_ids[start : start + size]))
            # An image token that the model generated is a token like others.
            if features_FH is not None and start < len(prompt):
                images_here = prompt[start : start + size].count(self._image_token_id)
                content.update(features_FH[image : image + images_here].flatten().numpy().data)
                image += images_here
            keys.append(content.digest())
