"""Questions to begin with. Their small pictures are drawn when the console starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIZE = 224
INK = "#1c1917"
RED, GREEN, BLUE, YELLOW = "#dc2626", "#16a34a", "#2563eb", "#eab308"


@dataclass(frozen=True, slots=True)
class Example:
    text: str
    image: Path | None = None


def make_examples(folder: Path) -> list[Example]:
    """Draw the pictures into `folder` and name the questions that go with them."""
    folder.mkdir(parents=True, exist_ok=True)

    def drawn(name: str, draw: Callable[[ImageDraw.ImageDraw], None]) -> Path:
        image = Image.new("RGB", (SIZE, SIZE), "white")
        draw(ImageDraw.Draw(image))
        image.save(folder / name)
        return folder / name

    return [
        Example("What is 47 + 38?"),
        Example("What number is this?", drawn("number.png", _number)),
        Example("How many shapes are there?", drawn("shapes.png", _shapes)),
        Example("Which bar is the tallest?", drawn("bars.png", _bars)),
        Example("What is 92 - 57?"),
        Example("Who are you?"),
    ]


def _number(draw: ImageDraw.ImageDraw) -> None:
    font = ImageFont.load_default(size=96)
    draw.text((SIZE / 2, SIZE / 2), "347", fill=INK, font=font, anchor="mm")


def _shapes(draw: ImageDraw.ImageDraw) -> None:
    draw.ellipse((24, 28, 92, 96), fill=RED)
    draw.rectangle((132, 36, 196, 100), fill=BLUE)
    draw.polygon(((66, 128), (106, 198), (26, 198)), fill=GREEN)
    draw.ellipse((130, 130, 198, 198), fill=YELLOW)


def _bars(draw: ImageDraw.ImageDraw) -> None:
    font, floor, per_unit = ImageFont.load_default(size=14), 192, 17
    for tick in range(0, 11, 2):
        y = floor - tick * per_unit
        draw.text((34, y), str(tick), fill=INK, font=font, anchor="rm")
        draw.line((36, y, 40, y), fill=INK)
    for slot, (label, value, colour) in enumerate((("A", 4, RED), ("B", 9, BLUE), ("C", 6, GREEN))):
        middle = 72 + slot * 56
        draw.rectangle((middle - 18, floor - value * per_unit, middle + 18, floor), fill=colour)
        draw.text((middle, floor + 5), label, fill=INK, font=font, anchor="mt")
    draw.line((40, 18, 40, floor, 212, floor), fill=INK)
