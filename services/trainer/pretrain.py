"""Pretraining: next-token prediction on the curriculum as plain documents, images included."""

from __future__ import annotations

from pathlib import Path

from services.trainer import run


def pretrain(
    recipe: Path,
    *,
    resume: str | None = None,
    max_seconds: float | None = None,
    max_steps: int | None = None,
) -> Path:
    """Train a preset from scratch, its tokenizer first; the model's folder."""
    return run.start(
        recipe, "document", resume=resume, max_seconds=max_seconds, max_steps=max_steps
    )
