"""The training loader's image path: what shared.model.images does, in 8-bit integers.

Resizing commutes with the per-channel normalisation, so Pillow can resize bytes and the device
normalise them later: several times faster, and less than two grey levels away from the exact path,
which evaluation and serving use.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from shared.model.config import VisionConfig
from shared.model.images import MEAN, STD, ImageInputs
from shared.model.tiling import tile

# Dimension key: B images, S side


def preprocess_bytes(image: Image.Image, config: VisionConfig) -> ImageInputs:
    """Thumbnail and crops of an RGB image as uint8; `normalize` makes model inputs of them."""
    tiling = tile(config, *image.size)
    if tiling.padded is not None:
        square = Image.new("RGB", (tiling.padded, tiling.padded))
        square.paste(image, (0, 0))
        image = square
    image = image.resize(tiling.size, Image.Resampling.BILINEAR)
    window, side = tiling.window, config.crop_size
    crops = []
    if window:
        canvas = image.resize(tiling.crop_canvas, Image.Resampling.BILINEAR)
        for y in range(0, tiling.rows * window, window):
            for x in range(0, tiling.columns * window, window):
                crops.append(_bytes(canvas.crop((x, y, x + window, y + window)), side))
    return ImageInputs(
        thumbnail_13SS=_bytes(image, config.image_size),
        crops_P3ZZ=torch.cat([torch.empty(0, 3, side, side, dtype=torch.uint8), *crops]),
        newline_after=tiling.newline_after,
    )


def _bytes(image: Image.Image, side: int) -> Tensor:
    """[1, 3, side, side] uint8."""
    resized = image.resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).unsqueeze(0)


def normalize(pixels_B3SS: Tensor) -> Tensor:
    """Bytes to the encoder's float32 inputs, on their device."""
    mean_311, std_311 = (
        torch.tensor(values, device=pixels_B3SS.device).view(3, 1, 1) for values in (MEAN, STD)
    )
    return (pixels_B3SS.float() / 255 - mean_311) / std_311
