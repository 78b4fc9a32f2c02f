"""From image to tokens of the text model: encoder, two strided convolutions, projector.

Each convolution halves the grid, so a token stands for 16 patches: 728 pixels make 52 x 52
patches and 13 x 13 = 169 tokens, a 504-pixel crop 81.
"""

from __future__ import annotations

from torch import Tensor, nn

from shared.model.config import Step3Config
from shared.model.vision import StepCLIP

# Dimension key: B images, S side in pixels, P = G*G patches, W vision width, O output width,
# T image tokens, H hidden


class ImageEncoder(nn.Module):
    """Everything that a vision service owns, under the checkpoint's names."""

    def __init__(self, config: Step3Config) -> None:
        super().__init__()
        width, out = config.vision.hidden_size, config.vision.output_hidden_size
        self.vision_model = StepCLIP(config.vision)
        self.vit_downsampler = nn.Conv2d(width, out, 2, stride=config.understand_projector_stride)
        self.vit_downsampler2 = nn.Conv2d(out, 2 * out, 3, stride=2, padding=1)
        self.vit_large_projector = nn.Linear(
            2 * out, config.text.hidden_size, bias=config.projector_bias
        )

    def encode_images(self, pixels_B3SS: Tensor) -> Tensor:
        """Image tokens [B, T, H] of normalised square images [B, 3, S, S]."""
        pixels_B3SS = pixels_B3SS.to(self.vit_large_projector.weight.dtype)
        features_BPW: Tensor = self.vision_model(pixels_B3SS)
        batch, _, width = features_BPW.shape
        grid = pixels_B3SS.shape[-1] // self.vision_model.embeddings.patch_embedding.stride[0]
        features_BWGG = features_BPW.transpose(1, 2).reshape(batch, width, grid, grid)
        down_BOGG = self.vit_downsampler2(self.vit_downsampler(features_BWGG))
        tokens_BTH: Tensor = self.vit_large_projector(down_BOGG.flatten(2).transpose(1, 2))
        return tokens_BTH
