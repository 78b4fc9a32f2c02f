"""What a data source yields, and the two rules that every source follows.

A source is a pure function of its random generator, and decides by a hash of the problem (never of
its wording) whether the problem belongs to the training or to the held-out split.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Literal, Protocol

from PIL import Image

Split = Literal["train", "heldout"]

# One problem in ten is never trained on.
HELD_OUT_ONE_IN = 10


@dataclass(frozen=True, slots=True)
class Turn:
    """A question with its images (they come before the text) and the reply that teaches."""

    question: str
    reasoning: str
    reply: str
    images: tuple[Image.Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation whose last turn is the one that an evaluation grades.

    `answer` is what the last reply must end in (a whole number) or name (anything else).
    """

    turns: tuple[Turn, ...]
    answer: str
    system: str | None = None


class Source(Protocol):
    """Draws one sample of `split`; the same generator state gives the same sample."""

    def __call__(self, rng: random.Random, split: Split) -> Sample: ...


def generator(*key: object) -> random.Random:
    """A random generator that is a pure function of `key`, the same in every process."""
    return random.Random("/".join(map(str, key)))


def is_held_out(problem: tuple[object, ...]) -> bool:
    digest = hashlib.blake2b(repr(problem).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0


def belongs(problem: tuple[object, ...], split: Split) -> bool:
    return is_held_out(problem) == (split == "heldout")
