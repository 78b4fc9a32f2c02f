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


def vision_share(recipe: Recipe, progress: float) -> float:
    """The image encoder's rate as a share of the others': zero, then a warm-up of its own."""
    if recipe.vision_start == 0:
        return recipe.vision_rate
    since = (progress - recipe.vision_start) / max(recipe.warmup, 1e-9)
    return recipe.vision_rate * min(max(since, 0.0), 1.0)
