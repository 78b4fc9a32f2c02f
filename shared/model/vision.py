"""The image encoder: a ViT of the EVA-CLIP family with the norm on each sub-layer's output."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.model.config import VisionConfig

# Dimension key: B images, P = G*G patches of a G x G grid, T = 4 + P tokens, W vision width,
# N heads, C head width

# Identical copies of the class token that lead the sequence; they take part in attention.
CLASS_COPIES = 4


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


class VisionEmbeddings(nn.Module):
    """Patch and class tokens with learned absolute positions."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.grid = config.image_size // patch
        self.class_embedding = nn.Parameter(torch.zeros(1, width))
        self.patch_embedding = nn.Conv2d(config.num_channels, width, patch, stride=patch)
        self.position_embedding = nn.Embedding(self.grid**2 + 1, width)

    def forward(self, pixels_B3SS: Tensor) -> Tensor:
        """Tokens [B, 4 + P, W], patches row by row."""
        patches_BWGG = self.patch_embedding(pixels_B3SS)
        batch, grid = patches_BWGG.shape[0], patches_BWGG.shape[-1]
        class_W, grid_PW = self._positions(grid)
        patches_BPW = patches_BWGG.flatten(2).transpose(1, 2) + grid_PW
        class_B4W = (self.class_embedding + class_W).expand(batch, CLASS_COPIES, -1)
        return torch.cat((class_B4W, patches_BPW), dim=1)

    def _positions(self, grid: int) -> tuple[Tensor, Tensor]:
        """The class token's row, and the table's grid resized to `grid` x `grid`."""
        class_W, grid_PW = self.position_embedding.weight[0], self.position_embedding.weight[1:]
        if grid == self.grid:
            return class_W, grid_PW
        table_1WGG = grid_PW.T.reshape(1, -1, self.grid, self.grid).float()
        resized_1WGG = F.interpolate(
            table_1WGG, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False
        )
        return class_W, resized_1WGG.squeeze(0).flatten(1).T.to(grid_PW.dtype)


class VisionAttention(nn.Module):
    """Bidirectional multi-head attention; qkv_proj's rows are q, then k, then v."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.qkv_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x_BTW: Tensor) -> Tensor:
        q_BNTC, k_BNTC, v_BNTC = (
            part_BTW.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part_BTW in self.qkv_proj(x_BTW).chunk(3, dim=-1)
        )
        out_BNTC = F.scaled_dot_product_attention(q_BNTC, k_BNTC, v_BNTC)
        out_BTW: Tensor = self.out_proj(out_BNTC.transpose(1, 2).flatten(-2))
        return out_BTW


class VisionMLP(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x_BTW: Tensor) -> Tensor:
        out_BTW: Tensor = self.fc2(quick_gelu(self.fc1(x_BTW)))
        return out_BTW


class VisionLayer(nn.Module):
    """tok += LN1(attention(tok)); tok += LN2(mlp(tok))."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.self_attn = VisionAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = VisionMLP(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x_BTW: Tensor) -> Tensor:
        x_BTW = x_BTW + self.layer_norm1(self.self_attn(x_BTW))
        x_BTW = x_BTW + self.layer_norm2(self.mlp(x_BTW))
        return x_BTW


class VisionTransformer(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x_BTW: Tensor) -> Tensor:
        for layer in self.layers:
            x_BTW = layer(x_BTW)
        return x_BTW


class StepCLIP(nn.Module):
    """Pixels to patch features. No norm before the first layer, none after the last."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.transformer = VisionTransformer(config)

    def forward(self, pixels_B3SS: Tensor) -> Tensor:
        """Features [B, P, W] of square images [B, 3, S, S]; S any multiple of the patch size."""
        tokens_BTW: Tensor = self.transformer(self.embeddings(pixels_B3SS))
        return tokens_BTW[:, CLASS_COPIES:]
