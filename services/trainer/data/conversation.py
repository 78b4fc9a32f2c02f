"""Longer talks: two or three unrelated samples in a row, the last of which is graded."""

from __future__ import annotations

import random

from services.trainer.data import arithmetic, dialogue, numbers_image, shapes
from services.trainer.data.sample import Sample, Source, Split
from services.trainer.data.wording import system_prompt

_PARTS: tuple[tuple[Source, float], ...] = (
    (arithmetic.single, 4),
    (arithmetic.follow_up, 1),
    (dialogue.manners, 3),
    (dialogue.outside, 2),
    (dialogue.foreign, 0.5),
    (numbers_image.read, 1.5),
    (shapes.count, 1),
    (shapes.colour_of, 0.5),
)


def mixed(rng: random.Random, split: Split) -> Sample:
    """Only the last sample is of `split`; what comes before it is always training material."""
    sources = rng.choices([s for s, _ in _PARTS], [w for _, w in _PARTS], k=rng.randint(2, 3))
    history = [turn for part in sources[:-1] for turn in part(rng, "train").turns]
    last = sources[-1](rng, split)
    return Sample((*history, *last.turns), last.answer, system_prompt(rng))
