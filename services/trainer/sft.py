"""Supervised fine-tuning: conversations, with the loss on the last turn's thinking and reply."""

from __future__ import annotations

from pathlib import Path

from services.trainer import run


def sft(
    recipe: Path,
    *,
    resume: str | None = None,
    max_seconds: float | None = None,
    max_steps: int | None = None,
) -> Path:
    """Continue from the model that the recipe names; the new model's folder."""
    return run.start(recipe, "chat", resume=resume, max_seconds=max_seconds, max_steps=max_steps)
