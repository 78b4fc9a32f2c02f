"""Simple bar charts with a value axis: the tallest bar, the shortest, the value of one."""

from __future__ import annotations

import random
from collections.abc import Sequence

from PIL import Image, ImageDraw

from services.trainer import render
from services.trainer.data.sample import Sample, Split, Turn, belongs
from services.trainer.data.wording import system_prompt, vary

_LABELS = (
    tuple("ABCDEF"),
    tuple("ABCDEF"),
    tuple("PQRSTU"),
    ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat"),
    ("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    ("red", "blue", "green", "pink", "grey"),
    ("cats", "dogs", "birds", "fish", "cows"),
)
_TALLEST = (
    "Which bar is tallest?",
    "Which bar is the tallest?",
    "Which bar is the highest?",
    "What is the tallest bar?",
    "Which category has the largest value?",
    "Which bar has the highest value?",
)
_SHORTEST = (
    "Which bar is shortest?",
    "Which bar is the shortest?",
    "Which bar is the lowest?",
    "Which category has the smallest value?",
    "Which bar has the lowest value?",
)
_VALUE = (
    "What is the value of {x}?",
    "What is the value of bar {x}?",
    "How high is the bar {x}?",
    "What value does {x} have?",
    "How much is {x}?",
    "Read the value of {x} in the chart.",
)
_HOW_MANY = ("How many bars are there?", "How many bars does the chart have?", "Count the bars.")
_DESCRIBE = (
    "Describe the chart.",
    "What does the chart show?",
    "What is in this image?",
    "Describe the image.",
    "What are the values in the chart?",
    "What do you see?",
)

Bars = list[tuple[str, int]]


def draw_bars(rng: random.Random, split: Split) -> tuple[Bars, int]:
    """Labels with values, and the step of the axis. Values lie on its ticks, or are printed."""
    while True:
        count = rng.randint(2, 5)
        labels = rng.choice(_LABELS)
        chosen = labels[:count] if rng.random() < 0.7 else tuple(rng.sample(labels, count))
        step = rng.choice((1, 1, 2, 5, 10))
        values = [step * rng.randint(1, 10) for _ in chosen]
        bars = list(zip(chosen, values, strict=True))
        if values.count(max(values)) == values.count(min(values)) == 1 and belongs(
            ("bars", *bars), split
        ):
            return bars, step


def draw_chart(rng: random.Random, bars: Sequence[tuple[str, int]], step: int) -> Image.Image:
    """Axes, ticks with numbers, a bar and a label for each category."""
    width, height = rng.randint(180, 420), rng.randint(160, 380)
    ink, paper = (
        ((0, 0, 0), (255, 255, 255))
        if rng.random() < 0.8
        else ((255, 255, 255), rng.choice(((0, 0, 0), (30, 30, 40))))
    )
    image = Image.new("RGB", (width, height), paper)
    pen = ImageDraw.Draw(image)
    font = render.load_font(render.draw_font(rng), rng.randint(12, 18))
    top = max(value for _, value in bars)
    ticks = max(top // step, rng.randint(top // step, 10))
    left, right, floor, ceiling = 40, width - 10, height - 30, 24
    per_unit = (floor - ceiling) / (ticks * step)

    every = 2 if ticks > 6 and rng.random() < 0.5 else 1
    grid = rng.random() < 0.5
    for tick in range(0, ticks + 1, every):
        y = floor - tick * step * per_unit
        pen.text((left - 6, y), str(tick * step), fill=ink, font=font, anchor="rm")
        pen.line((left - 4, y, left, y), fill=ink)
        if grid:
            pen.line(
                (left, y, right, y),
                fill=tuple((2 * p + i) // 3 for p, i in zip(paper, ink, strict=True)),
            )
    slot = (right - left) / len(bars)
    thin = rng.uniform(0.4, 0.85)
    same = rng.random() < 0.5
    visible = [c for c in render.PALETTE if c not in ("white", "black", "grey")]
    colour = rng.choice(visible)
    printed = rng.random() < 0.4
    for i, (label, value) in enumerate(bars):
        middle = left + (i + 0.5) * slot
        fill = render.jitter(rng, render.PALETTE[colour if same else rng.choice(visible)][0])
        y = floor - value * per_unit
        pen.rectangle((middle - thin * slot / 2, y, middle + thin * slot / 2, floor), fill=fill)
        if printed:
            pen.text((middle, y - 2), str(value), fill=ink, font=font, anchor="mb")
        pen.text((middle, floor + 4), label, fill=ink, font=font, anchor="mt")
    pen.line((left, ceiling, left, floor), fill=ink)
    pen.line((left, floor, right, floor), fill=ink)
    return render.camera(rng, image)


def question(rng: random.Random, split: Split) -> Sample:
    """One question about one chart; the thinking reads all bars first."""
    bars, step = draw_bars(rng, split)
    image = draw_chart(rng, bars, step)
    values = dict(bars)
    reading = "The bars are " + ", ".join(f"{label} {value}" for label, value in bars) + "."
    kind = rng.choices(("tallest", "shortest", "value", "count", "all"), (3, 2, 4, 1, 1))[0]
    if kind in ("tallest", "shortest"):
        answer = (max if kind == "tallest" else min)(values, key=lambda label: values[label])
        asks: tuple[str, ...] = _TALLEST if kind == "tallest" else _SHORTEST
        reply = f"The {kind} bar is {answer}."
        thought = f"{reading} {kind.capitalize()}: {answer} with {values[answer]}."
    elif kind == "value":
        label, value = rng.choice(bars)
        answer, asks, thought = str(value), tuple(a.format(x=label) for a in _VALUE), reading
        reply = f"The value of {label} is {value}."
    elif kind == "count":
        answer, asks, thought = str(len(bars)), _HOW_MANY, f"{reading} That makes {len(bars)}."
        reply = f"There are {len(bars)} bars."
    else:
        asks, thought = _DESCRIBE, reading
        answer = ", ".join(f"{label} {value}" for label, value in bars)
        reply = f"The chart shows {len(bars)} bars: {answer}."
    turn = Turn(vary(rng, rng.choice(asks)), thought, reply, (image,))
    return Sample((turn,), answer, system_prompt(rng))
