"""The Pareto plot of activated parameters against decoding cost, as an SVG file.

As Figure 1 of the Step-3 report: a model is on the frontier when none activates as many parameters
for less.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from shared.errors import InvalidArgument
from shared.plan.catalog import MODELS, STEP_3
from shared.plan.cost import best_deployment

_WIDTH, _HEIGHT = 760, 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 52, 56
# About the width of a model's name, in pixels.
_LABEL = 84
_INK, _MUTED, _GRID, _ACCENT = "#1f2933", "#52606d", "#e4e7eb", "#c2410c"


@dataclass(frozen=True, slots=True)
class Point:
    """A model: USD for a million tokens, and parameters (B) that a token activates."""

    name: str
    usd: float
    active_b: float
    on_frontier: bool


def pareto(context: int) -> list[Point]:
    """The report's models at `context` tokens, each on its cheapest cards; the cheapest first.

    Raises:
      InvalidArgument: `context` is not positive.
    """
    if context < 1:
        raise InvalidArgument(
            f"context = {context}: must be at least 1 token", reason="OUT_OF_RANGE", field="context"
        )
    costs = sorted(
        (best_deployment(model, context).usd, model.active_parameters / 1e9, model.name)
        for model in MODELS
    )
    points, most = [], 0.0
    for usd, active_b, name in costs:
        points.append(Point(name, usd, active_b, on_frontier=active_b > most))
        most = max(most, active_b)
    return points


def write_pareto(path: Path, context: int) -> list[Point]:
    """Draw the plot into `path`, which is replaced whole or not at all.

    Raises:
      InvalidArgument: `path` does not end in .svg, its folder is absent, or `context` is wrong.
    """
    if path.suffix != ".svg":
        raise InvalidArgument(
            f"pareto = {str(path)!r}: must end in .svg", reason="BAD_FILE", field="pareto"
        )
    points = pareto(context)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(_svg(points, context), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise InvalidArgument(
            f"pareto = {str(path)!r}: cannot be written: {error.strerror}",
            reason="BAD_FILE",
            field="pareto",
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return points


def _svg(points: Sequence[Point], context: int) -> str:
    step_x, step_y = _tick(max(point.usd for point in points)), 10
    count_x = math.ceil(max(point.usd for point in points) * 1.12 / step_x)
    count_y = math.ceil(max(point.active_b for point in points) * 1.05 / step_y)
    plot_width, plot_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    base = _TOP + plot_height

    def x(usd: float) -> float:
        return _LEFT + plot_width * usd / (count_x * step_x)

    def y(active_b: float) -> float:
        return base - plot_height * active_b / (count_y * step_y)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="28" font-size="16" fill="{_INK}">'
        f"Activated parameters and decoding cost, {context} tokens of context</text>",
    ]
    for i in range(count_x + 1):
        at = x(i * step_x)
        parts.append(f'<path d="M{at:.1f} {_TOP}V{base}" stroke="{_GRID}"/>')
        parts.append(_text(at, base + 18, f"{i * step_x:.{_decimals(step_x)}f}", "middle"))
    for i in range(count_y + 1):
        at = y(i * step_y)
        parts.append(f'<path d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}" stroke="{_GRID}"/>')
        parts.append(_text(_LEFT - 8, at + 4, f"{i * step_y}", "end"))
    parts.append(_text(_LEFT + plot_width / 2, _HEIGHT - 14, "USD for a million tokens", "middle"))
    parts.append(
        f'<text transform="translate(18 {_TOP + plot_height / 2}) rotate(-90)" '
        f'text-anchor="middle" fill="{_MUTED}">activated parameters (B)</text>'
    )
    frontier = " ".join(
        f"{x(point.usd):.1f},{y(point.active_b):.1f}" for point in points if point.on_frontier
    )
    parts.append(f'<polyline points="{frontier}" fill="none" stroke="{_ACCENT}" stroke-width="2"/>')
    for point in points:
        colour = _ACCENT if point.on_frontier else _MUTED
        weight = ' font-weight="bold"' if point.name == STEP_3.name else ""
        at_x, at_y = x(point.usd), y(point.active_b)
        parts.append(f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="5" fill="{colour}"/>')
        # Beside the point on the side where neither the line nor another point is.
        crowded = any(
            0 < x(other.usd) - at_x < _LABEL and abs(y(other.active_b) - at_y) < _LABEL / 6
            for other in points
        )
        dx, dy, anchor = (9, 4, "start")
        if point.on_frontier:
            dx, dy, anchor = (-6, -8, "end")
        elif crowded:
            dx, anchor = (-9, "end")
        parts.append(
            f'<text x="{at_x + dx:.1f}" y="{at_y + dy:.1f}" text-anchor="{anchor}" '
            f'fill="{_INK}"{weight}>{escape(point.name)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{_MUTED}">{text}</text>'


def _tick(largest: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that gives four to ten of them."""
    power = float(10 ** math.floor(math.log10(largest / 4)))
    return next(step * power for step in (5, 2, 1) if largest / (step * power) >= 4)


def _decimals(step: float) -> int:
    return max(0, -math.floor(math.log10(step)))
