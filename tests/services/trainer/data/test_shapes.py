"""Truths are recomputed from the shapes that were drawn, in the order of their places."""

import re

import pytest

from services.trainer import render
from services.trainer.data import shapes
from services.trainer.data.sample import generator


@pytest.fixture
def drawn(monkeypatch):
    """(x, shape, colour value) of what the pen drew."""
    record: list[tuple[float, str, render.Colour]] = []
    draw = render.draw_shape

    def spy(pen, shape, centre, radius, turn, fill, outline, width):
        record.append((centre[0], shape, fill or outline))
        draw(pen, shape, centre, radius, turn, fill, outline, width)

    monkeypatch.setattr(render, "draw_shape", spy)
    return record


def listed(reasoning: str) -> list[tuple[str, str]]:
    return re.findall(rf"\d+\. (\w+) ({'|'.join(render.SHAPES)})\b", reasoning)


def check_listing(drawn, reasoning: str) -> list[tuple[str, str]]:
    """The thinking names what was drawn, from left to right, in colours of that name."""
    kinds = listed(reasoning)
    by_place = sorted(drawn)
    assert [shape for _, shape, _ in by_place] == [shape for _, shape in kinds]
    for (_, _, value), (colour, _) in zip(by_place, kinds, strict=True):
        nearest = min(
            max(abs(a - b) for a, b in zip(value, named, strict=True))
            for named in render.PALETTE[colour]
        )
        assert nearest <= 20
    return kinds


def about(question: str) -> tuple[str | None, str | None]:
    """The colour and the shape that a question names."""
    words = re.findall(r"[a-z]+", question.lower().replace("gray", "grey"))
    singular = [word.removesuffix("s") for word in words]
    colours = [word for word in words if word in render.PALETTE]
    forms = [word for word in singular if word in render.SHAPES]
    return (colours or [None])[0], (forms or [None])[0]


def samples(drawn, source, count=120):
    for index in range(count):
        drawn.clear()
        sample = source(generator(source.__name__, index), "train")
        (turn,) = sample.turns
        yield sample, turn, check_listing(drawn, turn.reasoning)


def test_counting(drawn):
    answers = set()
    for sample, _, kinds in samples(drawn, shapes.count, 500):
        assert int(sample.answer) == len(drawn) == len(kinds)
        answers.add(len(kinds))
    assert answers == set(range(shapes.MOST + 1))


def test_the_gate_counts_one_to_five(drawn):
    assert {int(s.answer) for s, _, _ in samples(drawn, shapes.count_few)} == {1, 2, 3, 4, 5}


def test_counting_some(drawn):
    for sample, turn, kinds in samples(drawn, shapes.count_some):
        colour, shape = about(turn.question)
        hits = [
            i for i, (c, s) in enumerate(kinds, 1) if colour in (None, c) and shape in (None, s)
        ]
        assert int(sample.answer) == len(hits), turn.question
        assert f": {', '.join(map(str, hits)) or 'none'}. That makes" in turn.reasoning


def test_describing_names_all(drawn):
    for _, turn, kinds in samples(drawn, shapes.describe):
        assert re.findall(r"an? (\w+) (\w+)", turn.reply) == kinds


def test_asking_for_the_colour_or_the_form(drawn):
    for sample, turn, kinds in samples(drawn, shapes.colour_of):
        colour, shape = about(turn.question)
        if shape:
            (truth,) = [c for c, s in kinds if s == shape]
        else:
            (truth,) = [s for c, s in kinds if c == colour]
        assert sample.answer == truth


def test_yes_or_no(drawn):
    verdicts = set()
    for sample, turn, kinds in samples(drawn, shapes.is_there):
        colour, shape = about(turn.question)
        there = any(colour in (None, c) and s == shape for c, s in kinds)
        assert sample.answer == ("Yes" if there else "No"), turn.question
        verdicts.add(there)
    assert verdicts == {True, False}


def test_splits_share_no_scene():
    scenes = {
        split: {
            tuple(sorted(shapes.draw_kinds(generator(i), split, i % 5 + 1))) for i in range(1500)
        }
        for split in ("train", "heldout")
    }
    assert not scenes["train"] & scenes["heldout"]
