import math
import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from services.trainer import render


@pytest.fixture
def fonts(monkeypatch, tmp_path):
    """STEP3_FONTS = a folder; what a process has read of it before is forgotten."""
    render.font_files.cache_clear()
    monkeypatch.setenv("STEP3_FONTS", str(tmp_path))
    yield tmp_path
    render.font_files.cache_clear()


def test_fonts_of_the_folder_by_name(fonts):
    for name in ("b.ttf", "a.otf", "notes.txt"):
        (fonts / name).touch()
    assert [path.name for path in render.font_files()] == ["a.otf", "b.ttf"]
    drawn = [render.draw_font(random.Random(i)) for i in range(200)]
    assert set(drawn) == {"default", str(fonts / "a.otf"), str(fonts / "b.ttf")}
    assert drawn.count("default") < 40


def test_a_folder_without_fonts_is_an_error(fonts):
    with pytest.raises(ValueError, match=r"STEP3_FONTS = .*: holds no \.ttf or \.otf file"):
        render.font_files()


def test_without_a_folder_the_built_in_font_is_used():
    render.font_files.cache_clear()
    assert {render.draw_font(random.Random(i)) for i in range(20)} == {"default"}


def test_text_is_cut_to_its_ink():
    mask = np.asarray(render.text_mask("47", "default", 40))
    assert all(edge.any() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))


@pytest.mark.parametrize(("shape", "corners"), [("square", 4), ("triangle", 3), ("star", 10)])
def test_polygons_lie_in_their_circle(shape, corners):
    points = render.polygon(shape, (50, 60), 20, 0.4)
    assert len(points) == corners
    distances = [math.dist(point, (50, 60)) for point in points]
    assert max(distances) == pytest.approx(20)


@pytest.mark.parametrize("shape", render.SHAPES)
def test_a_shape_fills_its_middle_and_not_its_corners(shape):
    image = Image.new("RGB", (100, 100), (255, 255, 255))
    render.draw_shape(ImageDraw.Draw(image), shape, (50, 50), 40, 0.0, (255, 0, 0), None, 1)
    assert image.getpixel((50, 50)) == (255, 0, 0)
    assert image.getpixel((5, 5)) == (255, 255, 255)


def test_placed_circles_touch_neither_each_other_nor_the_edge():
    rng = random.Random(1)
    placed = 0
    for _ in range(200):
        radii = [rng.uniform(6, 20) for _ in range(6)]
        centres = render.place_apart(rng, (160, 120), radii, gap=3)
        if centres is None:
            continue
        placed += 1
        for i, (x, y) in enumerate(centres):
            assert radii[i] < x < 160 - radii[i] and radii[i] < y < 120 - radii[i]
            for j in range(i):
                assert math.dist(centres[i], centres[j]) > radii[i] + radii[j] + 3
    assert placed > 20
    assert render.place_apart(rng, (20, 20), [15.0], gap=1) is None


def test_ink_stands_out_from_paper_and_canvases_are_in_bounds(rng):
    for _ in range(300):
        ink, paper = render.ink_and_paper(rng)
        assert render.distance(ink, paper) > 100
        assert all(64 <= side <= 640 for side in render.canvas_size(rng))
