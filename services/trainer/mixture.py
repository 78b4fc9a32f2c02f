"""Batches by step number: the mixture of a recipe's phase, rendered and packed.

Batch `step` is a pure function of (recipe, step). Order, resumption and the number of loader
processes therefore need no state: a counter is all that a checkpoint holds.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch.utils.data import DataLoader, Dataset

from services.trainer.data import source
from services.trainer.data.sample import Sample, Split, generator
from services.trainer.example import Example, Renderer
from services.trainer.pack import Batch, pack
from services.trainer.recipe import Recipe
from shared.model.config import Step3Config
from shared.text.tokenizer import Tokenizer

Style = Literal["caption", "document", "chat"]


class Batches(Dataset[Batch]):
    """`self[step]` is the batch of a step."""

    def __init__(
        self,
        recipe: Recipe,
        style: Style,
        tokenizer: Tokenizer,
        config: Step3Config,
    ) -> None:
        self.recipe = recipe
        self.style: Style = style
        self.renderer = Renderer(tokenizer, config)

    def __len__(self) -> int:
        return self.recipe.steps

    def __getitem__(self, step: int) -> Batch:
        mixture = self.recipe.phase_at(step).mixture
        names, weights = list(mixture), list(mixture.values())

        def draw(index: int) -> Sample:
            rng = generator(self.recipe.seed, self.recipe.name, step, index)
            return source(rng.choices(names, weights)[0])(rng, "train")

        return self._pack(draw, self.recipe.rows)

    def held_out(self, name: str, split: Split = "heldout") -> Batch:
        """A fixed batch of one source's held-out samples, in the recipe's style."""

        def draw(index: int) -> Sample:
            return source(name)(generator("validation", name, index), split)

        return self._pack(draw, self.recipe.validation_rows)

    def _pack(self, draw: Callable[[int], Sample], rows: int) -> Batch:
        render = {
            "caption": self.renderer.caption,
            "document": self.renderer.document,
            "chat": self.renderer.chat,
        }[self.style]

        def examples() -> Iterator[Example]:
            index = 0
            while True:
                yield render(draw(index))
                index += 1

        config = self.renderer.config
        return pack(
            examples(),
            rows,
            self.recipe.row_length,
            crop_tokens=config.patch_token_len,
            thumbnail_tokens=config.image_token_len,
        )


def loader(batches: Batches, start: int, end: int) -> DataLoader[Batch]:
    """Batches `start` up to `end`, made by the recipe's worker processes ahead of time."""
    workers = batches.recipe.workers
    # A forked server that has imported everything once: workers start in no time, with no thread
    # and no CUDA context of this process.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, end),
        num_workers=workers,
        multiprocessing_context=context if workers else None,
        prefetch_factor=3 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
