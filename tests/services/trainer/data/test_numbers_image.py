"""Truths are compared with the number that was drawn."""

import re

import numpy as np
import pytest

from services.trainer.data import numbers_image
from services.trainer.data.sample import generator


@pytest.fixture
def drawn(monkeypatch):
    """The numbers of the pictures, in order."""
    numbers: list[int] = []
    draw = numbers_image.draw_number

    def record(rng, number, font, **options):
        numbers.append(number)
        return draw(rng, number, font, **options)

    monkeypatch.setattr(numbers_image, "draw_number", record)
    return numbers


@pytest.mark.parametrize("name", ["read", "read_short", "read_large"])
def test_reading(drawn, name):
    for index in range(60):
        drawn.clear()
        sample = getattr(numbers_image, name)(generator(index), "train")
        (turn,) = sample.turns
        assert drawn == [int(sample.answer)]
        assert len(turn.images) == 1
        spelled = re.search(r"(?:left to right are|one digit:) ([\d ]+)\.", turn.reasoning)
        assert spelled and spelled[1].replace(" ", "") == sample.answer
        assert turn.reply == f"The number is {sample.answer}."


def test_the_gate_has_one_to_three_digits():
    lengths = {len(numbers_image.read_short(generator(i), "heldout").answer) for i in range(60)}
    assert max(lengths) == 3


def test_calculating_with_the_number_of_the_image(drawn):
    for index in range(100):
        drawn.clear()
        sample = numbers_image.calculate(generator(index), "train")
        (turn,) = sample.turns
        (other,) = map(int, re.findall(r"\d+", turn.question))
        minus = re.search(r"subtract|minus|take .* away| - ", turn.question.lower())
        assert drawn[0] + (-other if minus else other) == int(sample.answer), turn.question


def test_adding_two_images(drawn):
    for index in range(40):
        drawn.clear()
        sample = numbers_image.two_images(generator(index), "train")
        assert len(sample.turns[0].images) == len(drawn) == 2
        assert sum(drawn) == int(sample.answer)
        first, second = re.findall(r"(?:First|Second): .*?([\d ]+)\.", sample.turns[0].reasoning)
        assert [int(digits.replace(" ", "")) for digits in (first, second)] == drawn


def test_held_out_numbers_are_never_trained_on(drawn):
    for index in range(250):
        numbers_image.draw_value(generator(index), "train")
    shown = {
        split: {numbers_image.draw_value(generator(i), split)[0] for i in range(400)}
        for split in ("train", "heldout")
    }
    two_digits_and_more = {s: {n for n in numbers if n > 9} for s, numbers in shown.items()}
    assert len(two_digits_and_more["heldout"]) > 50
    assert not two_digits_and_more["train"] & two_digits_and_more["heldout"]


def test_the_picture_shows_the_number():
    """Two numbers drawn with the same random choices differ; each has two well separated tones."""
    for index in range(30):
        one, other = (
            np.asarray(numbers_image.draw_number(generator(index), number, "default"), int)
            for number in (111, 888)
        )
        assert one.shape == other.shape
        assert (one != other).any()
        assert np.ptp(one.reshape(-1, 3), axis=0).max() > 30
