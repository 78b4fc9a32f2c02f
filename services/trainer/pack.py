"""Packing: many short documents in a few rows of one length, each attending to itself only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from services.trainer.example import Example

# Dimension key: R rows, L row length, D documents, I images, P crops of all images,
# F image tokens of all rows, S thumbnail side, Z crop side

# Targets with this value carry no loss (PyTorch's cross entropy skips it).
IGNORED = -100


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
        moved = {
            field.name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for field in fields(self)
            for value in (getattr(self, field.name),)
        }
        return Batch(**moved)

    def pin_memory(self) -> Batch:
        moved = {
            field.name: value.pin_memory() if isinstance(value, Tensor) else value
            for field in fields(self)
            for value in (getattr(self, field.name),)
        }
        return Batch(**moved)


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
    """
    placed: list[list[Example]] = [[] for _ in range(rows)]
    room = [row_length] * rows
    for example in examples:
        if len(example.ids) > row_length:
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
        torch.cat([image.thumbnail_13SS for image in images])
        if images
        else torch.empty(0),
        torch.cat(crops) if images else torch.empty(0),
        _feature_order([len(crop) for crop in crops], crop_tokens, thumbnail_tokens),
        documents,
    )


def _feature_order(crops_of_image: list[int], crop_tokens: int, thumbnail_tokens: int) -> Tensor:
    """Each image's crops come first, its thumbnail last."""
    order: list[int] = []
    crop, thumbnail = 0, sum(crops_of_image) * crop_tokens
    for crops in crops_of_image:
        order += range(crop, crop + crops * crop_tokens)
        order += range(thumbnail, thumbnail + thumbnail_tokens)
        crop += crops * crop_tokens
        thumbnail += thumbnail_tokens
    return torch.tensor(order, dtype=torch.int64)
