"""Image files to the encoder's pixels: decoding with limits, thumbnail, crops."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from shared.errors import InvalidArgument
from shared.model.config import VisionConfig
from shared.model.tiling import padded_side, tile

# Dimension key: S thumbnail side, Z crop side, P crops, Y and X any height and width

# CLIP's channel statistics of pixels in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


@dataclass(frozen=True, slots=True)
class ImageInputs:
    """One image, ready for `encode_images`."""

    thumbnail_13SS: Tensor
    crops_P3ZZ: Tensor
    # For each crop: whether `<patch_newline>` follows it in the prompt.
    newline_after: tuple[bool, ...]


def open_image(
    source: bytes | Path, *, max_bytes: int, max_pixels: int, field: str = "image"
) -> Image.Image:
    """Decode a PNG, JPEG, WebP, GIF (first frame) or BMP as RGB.

    The size is checked after the header is read and before a pixel is decoded. A thin strip
    counts as the square that it is padded to.

    Raises:
      InvalidArgument: IMAGE_UNDECODABLE or IMAGE_TOO_LARGE, naming `field`.
    """
    try:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if size > max_bytes:
            raise _too_large(field, f"{size} bytes", f"{max_bytes} bytes")
        data = source if isinstance(source, bytes) else source.read_bytes()
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            side = padded_side(*image.size)
            pixels = side * side if side is not None else image.width * image.height
            if pixels > max_pixels:
                raise _too_large(
                    field, f"{image.width} x {image.height} pixels", f"{max_pixels} pixels"
                )
            return image.convert("RGB")
    except UnidentifiedImageError:
        raise _undecodable(field, f"it is none of {', '.join(FORMATS)}") from None
    # Pillow's own guard against huge headers, which warns or raises by size.
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(field, "more pixels than a decoder should take", f"{max_pixels}") from None
    # Pillow's decoders raise all of these for damaged data.
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError) as error:
        raise _undecodable(field, str(error)) from None


def _too_large(field: str, found: str, limit: str) -> InvalidArgument:
    return InvalidArgument(
        f"{field}: the image has {found}, at most {limit} are taken; make it smaller",
        reason="IMAGE_TOO_LARGE",
        field=field,
    )


def _undecodable(field: str, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"{field}: the image cannot be decoded: {why}", reason="IMAGE_UNDECODABLE", field=field
    )


def preprocess(
    image: Image.Image,
    config: VisionConfig,
    *,
    max_crops: int | None = None,
    field: str = "image",
) -> ImageInputs:
    """Thumbnail and crops of an RGB image, normalised float32.

    Raises:
      InvalidArgument: IMAGE_TOO_MANY_CROPS, checked before any pixel work.
    """
    tiling = tile(config, *image.size)
    if max_crops is not None and tiling.num_crops > max_crops:
        raise InvalidArgument(
            f"{field}: {image.width} x {image.height} pixels make {tiling.num_crops} crops, at "
            f"most {max_crops} are taken; cut it or bring its sides closer together",
            reason="IMAGE_TOO_MANY_CROPS",
            field=field,
        )
    if tiling.padded is not None:
        square = Image.new("RGB", (tiling.padded, tiling.padded))
        square.paste(image, (0, 0))
        image = square
    image = image.resize(tiling.size, Image.Resampling.BILINEAR)
    canvas = image.resize(tiling.crop_canvas, Image.Resampling.BILINEAR)
    window = tiling.window
    crops = [
        # A box that runs past the edge is filled with black.
        canvas.crop((x, y, x + window, y + window))
        for y in range(0, tiling.rows * window, window or 1)
        for x in range(0, tiling.columns * window, window or 1)
    ]
    side = config.crop_size
    return ImageInputs(
        thumbnail_13SS=_square(image, config.image_size),
        crops_P3ZZ=torch.cat([torch.empty(0, 3, side, side), *(_square(c, side) for c in crops)]),
        newline_after=tiling.newline_after,
    )


def _square(image: Image.Image, side: int) -> Tensor:
    """Normalise, then squash to a square (in this order, as released): [1, 3, side, side]."""
    pixels_YX3 = torch.from_numpy(np.array(image, dtype=np.uint8))
    pixels_3YX = pixels_YX3.permute(2, 0, 1).float() / 255
    mean_311, std_311 = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    normal_13YX = ((pixels_3YX - mean_311) / std_311).unsqueeze(0)
    return F.interpolate(
        normal_13YX, size=(side, side), mode="bilinear", antialias=True, align_corners=False
    )
