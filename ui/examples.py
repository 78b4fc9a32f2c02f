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
    font = ImageFont.load_default(size=20)
    for slot, (label, height, colour) in enumerate(
        (("A", 80, RED), ("B", 150, BLUE), ("C", 110, GREEN))
    ):
        left = 36 + slot * 60
        draw.rectangle((left, 184 - height, left + 36, 184), fill=colour)
        draw.text((left + 18, 200), label, fill=INK, font=font, anchor="mm")
    draw.line((20, 184, 208, 184), fill=INK, width=2)
