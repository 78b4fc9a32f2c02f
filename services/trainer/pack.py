"""Packing: many short documents in a few rows of one length, each attending to itself only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from services.trainer.example import Example

# Dimension key: R rows, L row length, D documents, I images, P crops of all images,
# F image tokens of all rows, S thumbnail side, Z crop side

# Targets with this value carry no loss (PyTorch's cross entropy skips it).
IGNORED = -100
# Documents longer than a row that one batch puts up with.
_PATIENCE = 1000


@dataclass(slots=True)
class Batch:
    """Packed rows and the pixels that their image tokens stand for."""

    ids_RL: Tensor
    # The next token where it is learned, else IGNORED.
    targets_RL: Tensor
    positions_RL: Tensor
    # Number of the document in the batch, 0..D-1; D on padding.
    documents_RL: Tensor
    # Pixels as uint8 (services.trainer.pixels).
    thumbnails_I3SS: Tensor
    crops_P3ZZ: Tensor
    # Rows of (all crops' tokens, then all thumbnails' tokens) in the order of the prompt.
    feature_order_F: Tensor
    documents: int

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`; the copy does not wait where memory is pinned."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Called by the loader, by this name."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        names = [field.name for field in fields(self) if field.name != "documents"]
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in names}
        return replace(self, **changed)


def pack(
    examples: Iterator[Example],
    rows: int,
    row_length: int,
    *,
    crop_tokens: int,
    thumbnail_tokens: int,
) -> Batch:
    """Fill `rows` rows, each document into the first row with room, until one finds none.

    That last document is dropped, so that a batch depends on its own examples alone. A document
    longer than a row is dropped as well.

    Raises:
      ValueError: documents keep being longer than a row.
    """
    placed: list[list[Example]] = [[] for _ in range(rows)]
    room = [row_length] * rows
    too_long = 0
    for example in examples:
        if len(example.ids) > row_length:
            too_long += 1
            if too_long == _PATIENCE:
                raise ValueError(
                    f"row_length = {row_length}: {too_long} samples were longer; make it larger"
                )
            continue
        row = next((r for r in range(rows) if room[r] >= len(example.ids)), None)
        if row is None:
            break
        placed[row].append(example)
        room[row] -= len(example.ids)
    documents = sum(map(len, placed))

    shape = (rows, row_length)
    ids_RL = torch.zeros(shape, dtype=torch.int64)
    targets_RL = torch.full(shape, IGNORED, dtype=torch.int64)
    positions_RL = torch.zeros(shape, dtype=torch.int64)
    documents_RL = torch.full(shape, documents, dtype=torch.int64)
    number = 0
    for row, examples_here in enumerate(placed):
        start = 0
        for example in examples_here:
            end = start + len(example.ids)
            ids_RL[row, start:end] = torch.tensor(example.ids)
            following = [
                id_ if learned else IGNORED
                for id_, learned in zip(example.ids[1:], example.learned[1:], strict=True)
            ]
            targets_RL[row, start : end - 1] = torch.tensor(following)
            positions_RL[row, start:end] = torch.arange(end - start)
            documents_RL[row, start:end] = number
            start, number = end, number + 1

    images = [image for here in placed for example in here for image in example.images]
    crops = [image.crops_P3ZZ for image in images]
    return Batch(
        ids_RL,
        targets_RL,
        positions_RL,
        documents_RL,
        _stacked([image.thumbnail_13SS for image in images]),
        _stacked(crops),
        _feature_order(
            [len(crop) for crop in crops],
            padded(sum(map(len, crops))) * crop_tokens,
            crop_tokens,
            thumbnail_tokens,
        ),
        documents,
    )


def padded(images: int) -> int:
    """The next multiple of 32, since a GPU plans its convolutions anew for every batch size."""
    return -(-images // 32) * 32


def _stacked(pixels: list[Tensor]) -> Tensor:
    """All images, then black ones up to `padded`, which no token looks at."""
    if not pixels:
        return torch.empty(0, dtype=torch.uint8)
    stacked = torch.cat(pixels)
    missing = padded(len(stacked)) - len(stacked)
    return torch.cat([stacked, stacked.new_zeros(missing, *stacked.shape[1:])])


def _feature_order(
    crops_of_image: list[int], thumbnails_at: int, crop_tokens: int, thumbnail_tokens: int
) -> Tensor:
    """Each image's crops come first, its thumbnail last; thumbnails start at `thumbnails_at`."""
    order: list[int] = []
    crop, thumbnail = 0, thumbnails_at
    for crops in crops_of_image:
        order += range(crop, crop + crops * crop_tokens)
        order += range(thumbnail, thumbnail + thumbnail_tokens)
        crop += crops * crop_tokens
        thumbnail += thumbnail_tokens
    return torch.tensor(order, dtype=torch.int64)
