"""The learning rate: warm-up, stable, decay (WSD; Hu et al., arXiv 2404.06395)."""

from __future__ import annotations

from services.trainer.recipe import Recipe


def learning_rate(recipe: Recipe, progress: float) -> float:
    """The rate at `progress` in [0, 1]: linear up, constant, then 1 - sqrt down to the floor."""
    floor, progress = recipe.final_rate, min(progress, 1.0)
    if progress < recipe.warmup:
        factor = progress / recipe.warmup
    elif progress <= 1 - recipe.decay:
        factor = 1.0
    else:
        share = (progress - (1 - recipe.decay)) / recipe.decay
        factor = floor + (1 - floor) * (1 - share**0.5)
    return recipe.learning_rate * factor
