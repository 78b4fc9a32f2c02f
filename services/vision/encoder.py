"""The image encoder of a checkpoint, from image bytes to features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from shared.model.bridge import ImageEncoder
from shared.model.checkpoint import Checkpoint, vision_names
from shared.model.config import Step3Config
from shared.model.images import open_image, preprocess

# Dimension key: P crops, T thumbnail tokens, C crop tokens, H hidden, Z crop side

# Crops encoded at once: bounds the memory that an image of many crops takes.
_CROP_BATCH = 8


@dataclass(frozen=True, slots=True)
class Features:
    """What the language model reads of one image."""

    thumbnail_TH: Tensor
    crops_PCH: Tensor
    newline_after: tuple[bool, ...]

    @property
    def nbytes(self) -> int:
        return self.thumbnail_TH.nbytes + self.crops_PCH.nbytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    max_bytes: int
    max_pixels: int
    max_crops: int


class Encoder:
    """Encodes one image at a time. Blocking: call it in a thread."""

    def __init__(self, model: ImageEncoder, config: Step3Config, limits: ImageLimits) -> None:
        self.config = config
        self._model = model
        self._limits = limits
        weight = next(model.parameters())
        self.device, self._dtype = weight.device, weight.dtype

    @classmethod
    def from_dir(cls, folder: Path, limits: ImageLimits) -> Self:
        """Load the vision tensors of a checkpoint, and no others.

        On a GPU they keep their stored type; a CPU computes in float32.

        Raises:
          CheckpointError: the folder cannot be used.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        checkpoint = Checkpoint.open(folder)
        names = vision_names(checkpoint.config)
        tensors = checkpoint.load(names, torch.float32 if device.type == "cpu" else None)
        with torch.device("meta"):
            model = ImageEncoder(checkpoint.config)
        model.load_state_dict(
            {name: tensor.to(device) for name, tensor in tensors.items()}, assign=True
        )
        return cls(model.eval(), checkpoint.config, limits)

    @torch.inference_mode()
    def encode(self, data: bytes) -> Features:
        """Features of one encoded picture.

        Raises:
          InvalidArgument: it is too large, cannot be decoded, or makes too many crops.
        """
        image = open_image(
            data, max_bytes=self._limits.max_bytes, max_pixels=self._limits.max_pixels
        )
        inputs = preprocess(image, self.config.vision, max_crops=self._limits.max_crops)
        tokens, hidden = self.config.patch_token_len, self.config.text.hidden_size
        none_0CH = torch.empty(0, tokens, hidden, dtype=self._dtype)
        crops_P3ZZ = inputs.crops_P3ZZ
        batches = (
            crops_P3ZZ[start : start + _CROP_BATCH]
            for start in range(0, len(crops_P3ZZ), _CROP_BATCH)
        )
        return Features(
            thumbnail_TH=self._forward(inputs.thumbnail_13SS).squeeze(0),
            crops_PCH=torch.cat([none_0CH, *(self._forward(batch) for batch in batches)]),
            newline_after=inputs.newline_after,
        )

    def _forward(self, pixels_B3SS: Tensor) -> Tensor:
        return self._model.encode_images(pixels_B3SS.to(self.device, self._dtype)).cpu()
