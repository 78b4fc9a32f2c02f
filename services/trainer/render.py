"""Pictures of the curriculum, drawn with Pillow: canvases, colours, text and plain shapes."""

from __future__ import annotations

import io
import math
import os
import random
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Colour = tuple[int, int, int]

# Several values a name, as drawing libraries and people disagree on them.
PALETTE: dict[str, tuple[Colour, ...]] = {
    "red": ((255, 0, 0), (220, 20, 60), (200, 30, 30), (230, 40, 40), (178, 34, 34)),
    "green": ((0, 128, 0), (0, 255, 0), (34, 139, 34), (50, 180, 60), (0, 200, 0), (40, 160, 80)),
    "blue": ((0, 0, 255), (30, 80, 220), (65, 105, 225), (0, 0, 200), (30, 100, 200)),
    "yellow": ((255, 255, 0), (250, 230, 30), (255, 220, 0), (240, 220, 40)),
    "orange": ((255, 165, 0), (255, 140, 0), (245, 130, 20), (255, 127, 14)),
    "purple": ((128, 0, 128), (150, 50, 200), (100, 30, 160), (148, 0, 211)),
    "pink": ((255, 192, 203), (255, 105, 180), (250, 150, 190)),
    "brown": ((139, 69, 19), (165, 42, 42), (120, 70, 30), (150, 90, 40)),
    "cyan": ((0, 255, 255), (0, 220, 230), (40, 210, 220)),
    "grey": ((128, 128, 128), (150, 150, 150), (110, 110, 110), (169, 169, 169)),
    "black": ((0, 0, 0), (20, 20, 20)),
    "white": ((255, 255, 255), (245, 245, 245)),
}
SHAPES = ("circle", "square", "triangle", "star")

# The smallest distance between two colours that is seen at a glance (of 442 at most).
_CONTRAST = 110.0


@cache
def font_files() -> tuple[Path, ...]:
    """The fonts of the folder named by STEP3_FONTS, by file name; none without it.

    Pillow's built-in font is always drawn with besides.
    """
    folder = os.environ.get("STEP3_FONTS")
    if not folder:
        return ()
    files = sorted(path for path in Path(folder).iterdir() if path.suffix in {".ttf", ".otf"})
    if not files:
        raise ValueError(f"STEP3_FONTS = {folder!r}: holds no .ttf or .otf file")
    return tuple(files)


@lru_cache(maxsize=256)
def load_font(name: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font by the name that `draw_font` gave."""
    if name == "default":
        return ImageFont.load_default(size)
    return ImageFont.truetype(name, size, layout_engine=ImageFont.Layout.BASIC)


def draw_font(rng: random.Random) -> str:
    """The built-in font one time in twelve, else one of the folder's."""
    files = font_files()
    if not files or rng.random() < 1 / 12:
        return "default"
    return str(rng.choice(files))


def distance(one: Colour, other: Colour) -> float:
    return math.dist(one, other)


def jitter(rng: random.Random, colour: Colour, by: int = 10) -> Colour:
    red, green, blue = (min(255, max(0, c + rng.randint(-by, by))) for c in colour)
    return red, green, blue


def any_colour(rng: random.Random) -> Colour:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def ink_and_paper(rng: random.Random) -> tuple[Colour, Colour]:
    """A readable pair: black on white, white on black, or two well separated colours."""
    draw = rng.random()
    if draw < 0.35:
        return (0, 0, 0), (255, 255, 255)
    if draw < 0.5:
        return (255, 255, 255), (0, 0, 0)
    while True:
        named = rng.choice(list(PALETTE.values()))
        ink = rng.choice(named) if rng.random() < 0.6 else any_colour(rng)
        paper = rng.choice(((255, 255, 255), (0, 0, 0), any_colour(rng)))
        if distance(ink, paper) > _CONTRAST:
            return ink, paper


def canvas_size(rng: random.Random, smallest: int = 64, largest: int = 640) -> tuple[int, int]:
    """Width and height; mostly common sizes, half of them square, strips up to 6 to 1."""
    draw = rng.random()
    if draw < 0.4:
        common = [
            side
            for side in (64, 96, 100, 112, 128, 128, 150, 160, 168, 200, 200, 224, 256, 300, 400)
            if smallest <= side <= largest
        ]
        width = rng.choice(common)
        return (width, width) if rng.random() < 0.6 else (width, rng.choice(common))
    # Skewed to small sides: large canvases cost many crops.
    span = math.log(largest / smallest)
    width = round(smallest * math.exp(span * rng.random() ** 1.4))
    if draw < 0.65:
        return width, width
    height = round(width * math.exp(rng.uniform(-1, 1) * math.log(6 if draw > 0.9 else 2.5)))
    return width, min(largest, max(smallest, height))


def background(rng: random.Random, size: tuple[int, int], paper: Colour) -> Image.Image:
    """A plain canvas, now and then a faint gradient or noise."""
    image = Image.new("RGB", size, paper)
    draw = rng.random()
    if draw < 0.06:
        ramp = Image.linear_gradient("L").rotate(rng.choice((0, 90, 180, 270))).resize(size)
        other = Image.new("RGB", size, jitter(rng, paper, 50))
        image.paste(other, mask=ramp)
    elif draw < 0.1:
        noise = grain(rng, size, rng.uniform(5, 30))
        image = Image.blend(image, noise, rng.uniform(0.05, 0.2))
    return image


def grain(rng: random.Random, size: tuple[int, int], sigma: float) -> Image.Image:
    """Grey noise around the middle, made from the generator alone."""
    tile = np.random.default_rng(rng.getrandbits(32)).normal(128, sigma, (96, 96))
    image = Image.fromarray(tile.clip(0, 255).astype(np.uint8))
    return image.resize(
        size, rng.choice((Image.Resampling.NEAREST, Image.Resampling.BILINEAR))
    ).convert("RGB")


def camera(rng: random.Random, image: Image.Image) -> Image.Image:
    """What files go through: a little blur, a JPEG, a resize."""
    draw = rng.random()
    if draw < 0.05:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    elif draw < 0.12:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=rng.randrange(40, 95))
        image = Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")
    return image


def text_mask(text: str, font: str, size: int, rotation: float = 0.0) -> Image.Image:
    """`text` as white on black ("L"), cut to its ink."""
    face = load_font(font, size)
    left, top, right, bottom = (round(edge) for edge in face.getbbox(text))
    mask = Image.new("L", (max(1, right - left), max(1, bottom - top)), 0)
    ImageDraw.Draw(mask).text((-left, -top), text, fill=255, font=face)
    if rotation:
        mask = mask.rotate(rotation, Image.Resampling.BICUBIC, expand=True)
    return mask.crop(mask.getbbox() or (0, 0, 1, 1))


def polygon(
    shape: str, centre: tuple[float, float], radius: float, turn: float
) -> list[tuple[float, float]]:
    """Corners of a square, triangle or star inscribed in a circle; `turn` in radians."""
    corners = {"square": 4, "triangle": 3, "star": 10}[shape]
    start = math.pi / 4 if shape == "square" else -math.pi / 2
    points = []
    for i in range(corners):
        r = radius * (0.42 if shape == "star" and i % 2 else 1.0)
        angle = start + turn + 2 * math.pi * i / corners
        points.append((centre[0] + r * math.cos(angle), centre[1] + r * math.sin(angle)))
    return points


def draw_shape(
    draw: ImageDraw.ImageDraw,
    shape: str,
    centre: tuple[float, float],
    radius: float,
    turn: float,
    fill: Colour | None,
    outline: Colour | None,
    width: int,
) -> None:
    """One shape, filled or (with `fill` None) as a line."""
    if shape == "circle":
        x, y = centre
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=fill, outline=outline, width=width)
        return
    points = polygon(shape, centre, radius, turn)
    draw.polygon(points, fill=fill)
    if outline is not None:
        draw.line([*points, points[0], points[1]], fill=outline, width=width, joint="curve")


def place_apart(
    rng: random.Random, size: tuple[int, int], radii: Sequence[float], gap: float
) -> list[tuple[float, float]] | None:
    """Centres of circles that touch neither each other nor the edge; None if that went wrong."""
    centres: list[tuple[float, float]] = []
    for i, radius in enumerate(radii):
        for _ in range(30):
            margin = radius + 1
            if 2 * margin >= min(size):
                return None
            x, y = rng.uniform(margin, size[0] - margin), rng.uniform(margin, size[1] - margin)
            if all(
                math.dist((x, y), other) > radius + radii[j] + gap
                for j, other in enumerate(centres[:i])
            ):
                centres.append((x, y))
                break
        else:
            return None
    return centres
