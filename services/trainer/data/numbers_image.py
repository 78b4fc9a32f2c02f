"""One whole number in an image: to read it, or to read it and go on counting with it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from PIL import Image

from services.trainer import render
from services.trainer.data.arithmetic import Step, operand, work
from services.trainer.data.sample import Sample, Split, Turn, belongs
from services.trainer.data.wording import system_prompt, vary

_READ = (
    "What number is this?",
    "What number is this?",
    "What number is shown?",
    "What number is shown in the image?",
    "What number is in the image?",
    "What number do you see?",
    "Which number is this?",
    "Which number is in the picture?",
    "Which number do you see in this image?",
    "Read the number.",
    "Read the number in the image.",
    "Please read this number.",
    "Can you read the number?",
    "Can you tell me what number this is?",
    "What does the image say?",
    "What does it say?",
    "What is the number?",
    "What is the number in the image?",
    "What is this number?",
    "What value is shown here?",
    "Which digits do you see?",
    "Tell me the number in this picture.",
    "Identify the number.",
    "Recognize the number.",
    "What is written here?",
    "What is written in the image?",
    "What is in this image?",
    "Describe the image.",
    "What is this?",
    "What do you see?",
    "Number?",
    "Give me the number.",
    "Transcribe the number in the image.",
    "What number is displayed?",
    "What number is written in this picture?",
)
_ADD = (
    "Add {b} to the number in the image.",
    "Add {b} to this number.",
    "What is the number in the image plus {b}?",
    "What is this number plus {b}?",
    "Read the number and add {b}.",
    "Take the number in the picture and add {b}.",
    "How much is the number shown + {b}?",
)
_SUBTRACT = (
    "Subtract {b} from the number in the image.",
    "Subtract {b} from this number.",
    "What is the number in the image minus {b}?",
    "What is this number minus {b}?",
    "Read the number and subtract {b}.",
    "Take {b} away from the number in the picture.",
    "How much is the number shown - {b}?",
)
_SUM_OF_TWO = (
    "Add the two numbers.",
    "What is the sum of the numbers in these images?",
    "What is the sum of the two numbers?",
    "Add up the numbers in the images.",
    "How much are these two numbers together?",
)


def draw_number(rng: random.Random, number: int, font: str, *, easy: bool = False) -> Image.Image:
    """The number somewhere on a canvas: mostly large, one time in five down to small print.

    `easy`: large, on a small canvas.
    """
    width, height = render.canvas_size(rng, largest=200 if easy else 640)
    ink, paper = render.ink_and_paper(rng)
    image = render.background(rng, (width, height), paper)

    rotation = rng.uniform(-10, 10) if rng.random() < 0.1 else 0.0
    tallest = height * rng.uniform(0.5, 1.2)
    small_print = not easy and rng.random() < 0.2
    smallest = 12.0 if small_print else max(14.0, (0.4 if easy else 0.25) * height)
    size = round(smallest * math.exp(math.log(max(1.01, tallest / smallest)) * rng.random()))
    mask = render.text_mask(str(number), font, size, rotation)
    shrink = min(1.0, 0.96 * width / mask.width, 0.96 * height / mask.height)
    if shrink < 1:
        mask = render.text_mask(str(number), font, max(8, int(size * shrink)), rotation)
    free_x, free_y = max(0, width - mask.width), max(0, height - mask.height)
    if rng.random() < 0.4:
        at = (free_x // 2, free_y // 2)
    else:
        at = (rng.randint(0, free_x), rng.randint(0, free_y))
    image.paste(Image.new("RGB", mask.size, ink), at, mask)
    return render.camera(rng, image)


def read_digits(number: int) -> str:
    digits = list(str(number))
    if len(digits) == 1:
        return f"There is one digit: {digits[0]}."
    return f"The digits from left to right are {' '.join(digits)}. They make {number}."


def draw_value(
    rng: random.Random, split: Split, digits: tuple[float, ...] = (0.2, 0.35, 0.4, 0.05)
) -> tuple[int, str]:
    """A number and a font. One-digit numbers are too few to hold out: there the font decides."""
    while True:
        number, font = operand(rng, digits), render.draw_font(rng)
        held_by = (number,) if number > 9 else (number, font.rsplit("/", 1)[-1])
        if belongs(("number", *held_by), split):
            return number, font


def read(rng: random.Random, split: Split) -> Sample:
    """Read a number of one to four digits."""
    return _read(rng, split, (0.2, 0.35, 0.4, 0.05))


def read_short(rng: random.Random, split: Split) -> Sample:
    """The gate: one to three digits."""
    return _read(rng, split, (0.2, 0.35, 0.45))


def read_large(rng: random.Random, split: Split) -> Sample:
    """What an encoder sees first: few large digits on a small canvas."""
    return _read(rng, split, (0.5, 0.4, 0.1), easy=True)


def _read(
    rng: random.Random, split: Split, digits: tuple[float, ...], *, easy: bool = False
) -> Sample:
    number, font = draw_value(rng, split, digits)
    image = draw_number(rng, number, font, easy=easy)
    turn = Turn(
        vary(rng, rng.choice(_READ)), read_digits(number), f"The number is {number}.", (image,)
    )
    return Sample((turn,), str(number), system_prompt(rng))


def calculate(rng: random.Random, split: Split) -> Sample:
    """Read a number, then add or subtract a number of the text."""
    while True:
        number, font = draw_value(rng, split)
        step = Step(number, rng.choice("+-"), operand(rng, (0.5, 0.4, 0.1)))
        if split == "heldout" or not step.held_out:
            break
    ask = rng.choice(_ADD if step.op == "+" else _SUBTRACT).format(b=step.right)
    reasoning = f"{read_digits(number)} {work(step)}"
    image = draw_number(rng, number, font)
    turn = Turn(vary(rng, ask), reasoning, f"{step} = {step.result}.", (image,))
    return Sample((turn,), str(step.result), system_prompt(rng))


def two_images(rng: random.Random, split: Split) -> Sample:
    """Read a number in each of two images and add them."""

    def accept(draw: Callable[[], tuple[int, str]]) -> tuple[Step, list[str]]:
        while True:
            (one, first), (other, second) = draw(), draw()
            step = Step(one, "+", other)
            if split == "heldout" or not step.held_out:
                return step, [first, second]

    step, fonts = accept(lambda: draw_value(rng, split, (0.3, 0.5, 0.2)))
    images = tuple(
        draw_number(rng, number, font)
        for number, font in zip((step.left, step.right), fonts, strict=True)
    )
    reasoning = f"First: {read_digits(step.left)} Second: {read_digits(step.right)} {work(step)}"
    turn = Turn(vary(rng, rng.choice(_SUM_OF_TWO)), reasoning, f"{step} = {step.result}.", images)
    return Sample((turn,), str(step.result), system_prompt(rng))
