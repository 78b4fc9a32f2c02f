"""How an image becomes a thumbnail and crops, and what stands for it in the prompt.

Pure geometry and token ids, no pixel. The released figures are a 728-pixel thumbnail, 504-pixel
crops and a longest side of 3024 = 6 crops; other configurations scale with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from shared.model.config import Step3Config, VisionConfig

# Narrower strips than this are padded to a square: one patch row would not hold them.
_MIN_SIDE = 32
_MAX_STRIP_RATIO = 4
_SMALL_CROP_RATIO = 1.5
# Part of a window beyond a whole number of them that earns one more.
_EXTRA_WINDOW = 0.2


@dataclass(frozen=True, slots=True)
class Tiling:
    """Where an image is cut. All sizes are (width, height) in pixels."""

    # Square side after black padding on the right or below; None: not padded.
    padded: int | None
    # The thumbnail is made from this size.
    size: tuple[int, int]
    # Side of the square crop windows; 0: no crops.
    window: int
    # The windows cut this size; equals `size` without crops.
    crop_canvas: tuple[int, int]
    columns: int
    rows: int

    @property
    def num_crops(self) -> int:
        return self.columns * self.rows

    @property
    def newline_after(self) -> tuple[bool, ...]:
        """For each crop, row by row: whether `<patch_newline>` follows; not after the last row."""
        last = self.columns - 1
        return tuple(
            column == last and row < self.rows - 1
            for row in range(self.rows)
            for column in range(self.columns)
        )


def max_side(config: VisionConfig) -> int:
    """Longest side kept: 3024 / 728 of the thumbnail's, rounded to whole crops."""
    return round(config.image_size * 3024 / 728 / config.crop_size) * config.crop_size


def padded_side(width: int, height: int) -> int | None:
    """The square that a thin strip is padded to, or None."""
    long, short = max(width, height), min(width, height)
    return long if short < _MIN_SIDE and long > _MAX_STRIP_RATIO * short else None


def tile(config: VisionConfig, width: int, height: int) -> Tiling:
    """Cut an image of `width` x `height` pixels (both at least 1)."""
    padded = padded_side(width, height)
    if padded is not None:
        width = height = padded
    limit = max_side(config)
    if max(width, height) > limit:
        scale = limit / max(width, height)
        width, height = max(int(width * scale), 1), max(int(height * scale), 1)

    window = _window(config, width, height)
    if window == 0:
        return Tiling(padded, (width, height), 0, (width, height), 0, 0)
    canvas = (_whole_windows(width, window), _whole_windows(height, window))
    columns, rows = (math.ceil(side / window) for side in canvas)
    return Tiling(padded, (width, height), window, canvas, columns, rows)


def _window(config: VisionConfig, width: int, height: int) -> int:
    long, short = max(width, height), min(width, height)
    if long < config.image_size:
        return short if long / short > _SMALL_CROP_RATIO else 0
    return min(short, config.crop_size) if long / short > _MAX_STRIP_RATIO else config.crop_size


def _whole_windows(side: int, window: int) -> int:
    ratio = side / window
    if ratio < 1:
        return side
    whole = math.floor(ratio)
    return (whole + (ratio - whole > _EXTRA_WINDOW)) * window


def num_image_tokens(config: Step3Config, width: int, height: int) -> int:
    """Prompt tokens that one image takes, markers included."""
    tiling = tile(config.vision, width, height)
    crops = tiling.num_crops * (config.patch_token_len + 2) + sum(tiling.newline_after)
    return crops + config.image_token_len + 2


@dataclass(frozen=True, slots=True)
class ImageTokenIds:
    """Ids of the tokens around image features, from the checkpoint's tokenizer."""

    im_start: int
    im_patch: int
    im_end: int
    patch_start: int
    patch_end: int
    patch_newline: int

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer) -> ImageTokenIds:
        """Look up `<im_start>`, `<im_patch>` and so on.

        Raises:
          ValueError: the tokenizer lacks one of them.
        """
        ids: dict[str, int] = {}
        for name in cls.__dataclass_fields__:
            token_id = tokenizer.token_to_id(f"<{name}>")
            if token_id is None:
                raise ValueError(f"tokenizer: has no token <{name}>; images need it")
            ids[name] = token_id
        return cls(**ids)

    @classmethod
    def from_dir(cls, folder: str | Path) -> ImageTokenIds:
        """From `folder`/tokenizer.json.

        Raises:
          ValueError: the file is absent or lacks a token.
        """
        path = Path(folder) / "tokenizer.json"
        if not path.exists():
            raise ValueError(f"model folder {str(folder)!r} has no tokenizer.json; images need it")
        return cls.from_tokenizer(Tokenizer.from_file(str(path)))


def expand_prompt(
    prompt_ids: Sequence[int],
    newlines: Sequence[Sequence[bool]],
    config: Step3Config,
    tokens: ImageTokenIds,
) -> list[int]:
    """Replace each `<im_patch>` by the tokens of its image: crops first, the thumbnail last.

    Args:
      prompt_ids: one `<im_patch>` for each image.
      newlines: for each image its `Tiling.newline_after`, which also tells the number of crops.
      config: gives the tokens of a crop and of a thumbnail.
      tokens: the marker ids.

    Raises:
      ValueError: the prompt has more or fewer `<im_patch>` than there are images.
    """
    slots = sum(token == tokens.im_patch for token in prompt_ids)
    if slots != len(newlines):
        raise ValueError(f"prompt: has {slots} <im_patch> tokens for {len(newlines)} images")
    crop = [tokens.patch_start, *[tokens.im_patch] * config.patch_token_len, tokens.patch_end]
    thumbnail = [tokens.im_start, *[tokens.im_patch] * config.image_token_len, tokens.im_end]
    expanded: list[int] = []
    images = iter(newlines)
    for token in prompt_ids:
        if token != tokens.im_patch:
            expanded.append(token)
            continue
        for newline in next(images):
            expanded += crop
            if newline:
                expanded.append(tokens.patch_newline)
        expanded += thumbnail
    return expanded
