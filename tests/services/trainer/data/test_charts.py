"""Truths are recomputed from the bars that the pen drew: heights, labels, tick labels."""

import re

import pytest
from PIL import ImageDraw

from services.trainer.data import charts
from services.trainer.data.sample import generator


class Pen:
    """Draws, and keeps where bars and texts went."""

    def __init__(self, image):
        self._pen = ImageDraw.Draw(image)
        self.bars, self.ticks, self.labels = [], [], []

    def rectangle(self, box, fill):
        self.bars.append(box)
        self._pen.rectangle(box, fill=fill)

    def text(self, at, text, *, anchor, **rest):
        if anchor == "rm":
            self.ticks.append((at[1], int(text)))
        elif anchor == "mt":
            self.labels.append((at[0], text))
        self._pen.text(at, text, anchor=anchor, **rest)

    def line(self, *args, **rest):
        self._pen.line(*args, **rest)

    def read(self) -> dict[str, float]:
        """Each label's value by the axis, from the picture's geometry alone."""
        (zero_y, zero), (top_y, top) = self.ticks[0], self.ticks[-1]
        unit = (top - zero) / (zero_y - top_y)
        values = {}
        for x, label in self.labels:
            (height,) = [floor - y for left, y, right, floor in self.bars if left < x < right]
            values[label] = zero + height * unit
        return values


@pytest.fixture
def pens(monkeypatch):
    made: list[Pen] = []

    class Module:
        @staticmethod
        def Draw(image):
            made.append(Pen(image))
            return made[-1]

    monkeypatch.setattr(charts, "ImageDraw", Module)
    return made


def test_questions_about_charts(pens):
    kinds = set()
    for index in range(150):
        sample = charts.question(generator(index), "train")
        (turn,) = sample.turns
        values = pens[-1].read()
        named = dict(re.findall(r"(\w+) (\d+)(?=[,.])", turn.reasoning.partition(". ")[0] + "."))
        assert {k: int(v) for k, v in named.items()} == {
            label: pytest.approx(value) for label, value in values.items()
        }
        if sample.answer in values:
            best = max if re.search(r"tall|high|large", turn.question.lower()) else min
            assert sample.answer == best(values, key=values.get), turn.question
            kinds.add(best)
        elif not sample.answer.isdigit():
            assert sample.answer == ", ".join(f"{k} {round(v)}" for k, v in values.items())
            kinds.add("all")
        elif re.search(r"how many|count", turn.question.lower()):
            assert int(sample.answer) == len(values)
            kinds.add("count")
        else:
            asked = {label for label in values if re.search(rf"\b{label}\b", turn.question, re.I)}
            # "a" and "e" may also be words of the sentence.
            assert any(int(sample.answer) == round(values[label]) for label in asked)
            kinds.add("value")
    assert len(kinds) == 5


def test_the_extremes_are_unique_and_the_splits_apart():
    seen = {"train": set(), "heldout": set()}
    for split, charts_of_split in seen.items():
        for index in range(400):
            bars, step = charts.draw_bars(generator(index), split)
            values = sorted(value for _, value in bars)
            assert values[0] < values[1] or len(values) == 1
            assert values[-2] < values[-1]
            assert all(value % step == 0 for value in values)
            charts_of_split.add(tuple(bars))
    assert not seen["train"] & seen["heldout"]
