"""Coloured circles, squares, triangles and stars: counting, naming, asking for colours."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence

from PIL import Image, ImageDraw

from services.trainer import render
from services.trainer.data.sample import Sample, Split, Turn, belongs
from services.trainer.data.wording import system_prompt, vary

MOST = 8
_COUNT = (
    "How many shapes are there?",
    "How many shapes are there?",
    "How many shapes are in the image?",
    "How many shapes do you see?",
    "How many shapes can you see in this picture?",
    "Count the shapes.",
    "Count the shapes in the image.",
    "How many objects are there?",
    "How many figures are in this image?",
    "What is the number of shapes?",
    "Please count the shapes.",
    "How many shapes?",
    "Can you count the shapes in this image?",
    "Tell me how many shapes there are.",
)
_COUNT_SOME = (
    "How many {x} are there?",
    "How many {x} are in the image?",
    "How many {x} do you see?",
    "How many {x}?",
    "Count the {x}.",
    "Count the {x} in the picture.",
    "Tell me how many {x} there are.",
)
_DESCRIBE = (
    "Which shapes are there?",
    "What shapes do you see?",
    "What shapes are in the image?",
    "Name the shapes.",
    "Describe the image.",
    "Describe this picture.",
    "What is in this image?",
    "What do you see?",
    "List the shapes and their colours.",
    "List all shapes with their colors.",
    "What is this?",
)
_COLOUR_OF = (
    "What colour is the {s}?",
    "What color is the {s}?",
    "Which colour does the {s} have?",
    "Which color is the {s}?",
    "Tell me the colour of the {s}.",
    "What is the color of the {s}?",
)
_SHAPE_OF = (
    "What shape is {c}?",
    "Which shape is {c}?",
    "What is the {c} shape?",
    "Name the {c} shape.",
    "What kind of shape is the {c} one?",
)
_IS_THERE = (
    "Is there a {x}?",
    "Is there a {x} in the image?",
    "Do you see a {x}?",
    "Can you see a {x} in this picture?",
    "Does the image show a {x}?",
)

Kind = tuple[str, str]  # colour, shape


def article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def draw_kinds(rng: random.Random, split: Split, count: int) -> list[Kind]:
    """`count` (colour, shape) pairs, from few or many kinds; their multiset decides the split."""
    colours = list(render.PALETTE)
    while True:
        some = rng.sample(colours, rng.randint(1, 5))
        shapes = rng.sample(render.SHAPES, rng.randint(1, len(render.SHAPES)))
        kinds = [(rng.choice(some), rng.choice(shapes)) for _ in range(count)]
        if count == 0 or belongs(("shapes", *sorted(kinds)), split):
            return kinds


def draw_scene(rng: random.Random, kinds: Sequence[Kind]) -> tuple[Image.Image, list[Kind]]:
    """The picture, and its shapes from left to right."""
    while True:
        size = render.canvas_size(rng, smallest=80)
        paper = _paper(rng, {colour for colour, _ in kinds})
        short = min(size)
        widest = min(0.4 if len(kinds) < 3 else 0.28, 0.75 / math.sqrt(max(1, len(kinds))))
        base = short * rng.uniform(0.07, widest)
        radii = [max(6.0, base * rng.uniform(0.7, 1.3)) for _ in kinds]
        if rng.random() < 0.4:
            radii = [max(6.0, base)] * len(kinds)
        centres = render.place_apart(rng, size, radii, gap=max(2.0, 0.015 * short))
        if centres is None:
            continue
        image = render.background(rng, size, paper)
        pen = ImageDraw.Draw(image)
        style = rng.random()
        for (colour, shape), centre, radius in zip(kinds, centres, radii, strict=True):
            fill = render.jitter(rng, rng.choice(render.PALETTE[colour]))
            while render.distance(fill, paper) < 60:
                fill = render.jitter(rng, rng.choice(render.PALETTE[colour]), 20)
            turn = rng.uniform(-0.2, 0.2) if rng.random() < 0.25 else 0.0
            if shape in ("triangle", "star") and rng.random() < 0.25:
                turn = rng.uniform(0, 2 * math.pi)
            width = max(2, round(radius / 8))
            if style < 0.08:
                pen_args: tuple[render.Colour | None, render.Colour | None, int] = (
                    None,
                    fill,
                    max(2, round(radius / rng.uniform(4, 8))),
                )
            elif style < 0.25:
                pen_args = (fill, _outline(fill), min(width, 3))
            else:
                pen_args = (fill, None, 1)
            render.draw_shape(pen, shape, centre, radius, turn, *pen_args)
        order = sorted(range(len(kinds)), key=lambda i: centres[i][0])
        return render.camera(rng, image), [kinds[i] for i in order]


def _paper(rng: random.Random, colours: set[str]) -> render.Colour:
    """A background that every shape stands out from."""
    inks = [value for colour in colours for value in render.PALETTE[colour]]
    while True:
        paper = rng.choice(
            (
                (255, 255, 255),
                (255, 255, 255),
                (0, 0, 0),
                (30, 30, 30),
                (240, 240, 240),
                (245, 240, 220),
                (20, 30, 60),
                (200, 220, 240),
                render.any_colour(rng),
            )
        )
        if all(render.distance(ink, paper) > 80 for ink in inks):
            return paper


def _outline(fill: render.Colour) -> render.Colour:
    return (0, 0, 0) if sum(fill) > 200 else (255, 255, 255)


def listing(kinds: Sequence[Kind]) -> str:
    """A numbered list from left to right: its last number is the count."""
    if not kinds:
        return "I see no shape."
    lines = [f"{i}. {colour} {shape}" for i, (colour, shape) in enumerate(kinds, 1)]
    return "From left to right: " + ", ".join(lines) + "."


def _plural(shape: str, count: int) -> str:
    return shape if count == 1 else shape + "s"


def _number_of(count: int, what: str) -> str:
    """`what` is singular."""
    return f"There {'is' if count == 1 else 'are'} {count} {_plural(what, count)}."


def _scene(
    rng: random.Random, split: Split, least: int, most: int
) -> tuple[Image.Image, list[Kind]]:
    return draw_scene(rng, draw_kinds(rng, split, rng.randint(least, most)))


def _sample(
    rng: random.Random, question: str, thought: str, reply: str, answer: str, image: Image.Image
) -> Sample:
    turn = Turn(vary(rng, question), thought, reply, (image,))
    return Sample((turn,), answer, system_prompt(rng))


def count(rng: random.Random, split: Split) -> Sample:
    """How many shapes: none to eight."""
    least = 0 if rng.random() < 0.1 else 1
    image, kinds = _scene(rng, split, least, MOST if rng.random() < 0.4 else 5)
    return _count(rng, image, kinds)


def count_few(rng: random.Random, split: Split) -> Sample:
    """The gate: one to five shapes."""
    return _count(rng, *_scene(rng, split, 1, 5))


def _count(rng: random.Random, image: Image.Image, kinds: list[Kind]) -> Sample:
    number = len(kinds)
    thought = f"{listing(kinds)} That makes {number}."
    reply = _number_of(number, "shape")
    return _sample(rng, rng.choice(_COUNT), thought, reply, str(number), image)


def count_some(rng: random.Random, split: Split) -> Sample:
    """How many of one shape, of one colour, or of both."""
    image, kinds = _scene(rng, split, 1, 6)
    colour, shape = (
        rng.choice(kinds)
        if rng.random() < 0.8
        else (rng.choice(list(render.PALETTE)), rng.choice(render.SHAPES))
    )
    form = rng.randrange(3)
    what = (f"{colour} {shape}", shape, f"{colour} shape")[form]
    hits = [
        i
        for i, (c, s) in enumerate(kinds, 1)
        if (c == colour or form == 1) and (s == shape or form == 2)
    ]
    found = f"{what.capitalize()}: " + (", ".join(map(str, hits)) if hits else "none")
    thought = f"{listing(kinds)} {found}. That makes {len(hits)}."
    asked = what.replace("grey", "gray") if rng.random() < 0.3 else what
    question = rng.choice(_COUNT_SOME).format(x=asked + "s")
    return _sample(rng, question, thought, _number_of(len(hits), what), str(len(hits)), image)


def describe(rng: random.Random, split: Split) -> Sample:
    """Name all shapes."""
    image, kinds = _scene(rng, split, 1, 5)
    names = [article(f"{colour} {shape}") for colour, shape in kinds]
    text = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
    return _sample(rng, rng.choice(_DESCRIBE), listing(kinds), f"I see {text}.", text, image)


def colour_of(rng: random.Random, split: Split) -> Sample:
    """The colour of the only shape of its form, or the form of the only one of its colour."""
    by_shape = rng.random() < 0.65
    while True:
        kinds = draw_kinds(rng, split, rng.randint(1, 5))
        counts = Counter(kind[1] if by_shape else kind[0] for kind in kinds)
        single = [kind for kind in kinds if counts[kind[1] if by_shape else kind[0]] == 1]
        if single:
            break
    image, kinds = draw_scene(rng, kinds)
    colour, shape = rng.choice(single)
    asks, answer = (_COLOUR_OF, colour) if by_shape else (_SHAPE_OF, shape)
    asked = colour.replace("grey", "gray") if rng.random() < 0.3 else colour
    question = rng.choice(asks).format(s=shape, c=asked)
    thought = f"{listing(kinds)} The {shape} is {colour}."
    reply = f"The {shape} is {colour}." if by_shape else f"The {colour} shape is {article(shape)}."
    return _sample(rng, question, thought, reply, answer, image)


def is_there(rng: random.Random, split: Split) -> Sample:
    """Yes or no."""
    image, kinds = _scene(rng, split, 1, 5)
    colour, shape = (
        rng.choice(kinds)
        if rng.random() < 0.5
        else (rng.choice(list(render.PALETTE)), rng.choice(render.SHAPES))
    )
    with_colour = rng.random() < 0.6
    what = f"{colour} {shape}" if with_colour else shape
    there = any(s == shape and (c == colour or not with_colour) for c, s in kinds)
    verdict = "Yes" if there else "No"
    thought = f"{listing(kinds)} {what.capitalize()}: {'yes' if there else 'no'}."
    reply = f"{verdict}, there is {'' if there else 'no '}{article(what) if there else what}."
    return _sample(rng, rng.choice(_IS_THERE).format(x=what), thought, reply, verdict, image)
