"""The look of the console: one accent, warm neutrals and a bundled typeface. Details: style.css."""

from __future__ import annotations

from gradio.themes import Base
from gradio.themes.utils import colors, fonts, sizes

ACCENT = colors.Color(
    name="accent",
    c50="#effcf9",
    c100="#d3f6ee",
    c200="#a6ecdd",
    c300="#6fdbc7",
    c400="#3bc1ac",
    c500="#1da492",
    c600="#0f766e",
    c700="#0e645e",
    c800="#114f4b",
    c900="#12423f",
    c950="#042725",
)
# Bold, not semibold: the bundled semibold of IBM Plex Sans has no Latin letters.
WEIGHTS = (400, 700)


def theme() -> Base:
    base = Base(
        primary_hue=ACCENT,
        secondary_hue=ACCENT,
        neutral_hue=colors.stone,
        text_size=sizes.text_md,
        radius_size=sizes.radius_lg,
        font=(
            fonts.LocalFont("IBM Plex Sans", weights=WEIGHTS),
            "ui-sans-serif",
            "system-ui",
            "sans-serif",
        ),
        font_mono=(
            fonts.LocalFont("IBM Plex Mono", weights=WEIGHTS),
            "ui-monospace",
            "monospace",
        ),
    )
    return base.set(
        body_background_fill="#fdfcfb",
        body_background_fill_dark="#171514",
        body_text_color="*neutral_800",
        body_text_color_dark="*neutral_200",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#1f1d1b",
        background_fill_secondary="#f6f4f2",
        background_fill_secondary_dark="#262321",
        block_background_fill="*background_fill_primary",
        block_border_width="0px",
        block_shadow="none",
        border_color_primary="*neutral_200",
        border_color_primary_dark="#383431",
        input_background_fill="*background_fill_primary",
        input_background_fill_dark="*background_fill_primary",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        color_accent_soft="*primary_50",
        color_accent_soft_dark="#22302e",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="#ffffff",
    )
