"""The data sources by name: what a recipe's mixture is written in."""

from __future__ import annotations

from collections.abc import Mapping

from services.trainer.data import arithmetic, charts, dialogue, numbers_image, shapes
from services.trainer.data.conversation import mixed
from services.trainer.data.sample import Source

SOURCES: Mapping[str, Source] = {
    "arithmetic": arithmetic.single,
    "arithmetic-two-digit": arithmetic.two_digit,
    "arithmetic-chain": arithmetic.chain,
    "arithmetic-follow-up": arithmetic.follow_up,
    "number": numbers_image.read,
    "number-short": numbers_image.read_short,
    "number-large": numbers_image.read_large,
    "number-calculate": numbers_image.calculate,
    "number-two-images": numbers_image.two_images,
    "shapes-count": shapes.count,
    "shapes-count-few": shapes.count_few,
    "shapes-count-some": shapes.count_some,
    "shapes-describe": shapes.describe,
    "shapes-colour": shapes.colour_of,
    "shapes-is-there": shapes.is_there,
    "chart": charts.question,
    "manners": dialogue.manners,
    "outside": dialogue.outside,
    "foreign": dialogue.foreign,
    "no-image": dialogue.no_image,
    "unknown-image": dialogue.unknown_image,
    "conversation": mixed,
}


def source(name: str) -> Source:
    """A source by its name.

    Raises:
      ValueError: there is none of that name.
    """
    try:
        return SOURCES[name]
    except KeyError:
        raise ValueError(f"source {name!r}: must be one of {', '.join(SOURCES)}") from None
