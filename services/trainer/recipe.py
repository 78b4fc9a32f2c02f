"""A training recipe: one YAML file says what is trained, on which mixture, for how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from services.trainer.data import source


class RecipeError(ValueError):
    """A recipe cannot be used; the text names the file, the key and what it must be."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A mixture that is drawn from until a share of all steps is done."""

    name: str
    until: float
    mixture: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """See recipes/nano-pretrain.yaml and recipes/nano-sft.yaml for every key in use."""

    name: str
    # A preset's name (pretraining from scratch), or where to start from: another run's name or a
    # model folder.
    preset: str | None = None
    init: str | None = None
    seed: int = 0
    vocab_size: int = 2048
    # Samples that the tokenizer is trained on.
    tokenizer_samples: int = 20_000

    # A step reads `rows` rows of `row_length` tokens.
    rows: int
    row_length: int
    steps: int
    phases: tuple[Phase, ...]

    learning_rate: float
    # The rate at the end, as a share of the highest.
    final_rate: float = 0.01
    # Shares of all steps.
    warmup: float = 0.02
    decay: float = 0.2
    weight_decay: float = 0.05
    clip: float = 1.0
    # Coefficients of the router's balance loss and z-loss.
    balance: float = 0.01
    z_loss: float = 1e-4

    workers: int = 0
    log_every: int = 20
    checkpoint_every: int = 1000
    validate_every: int = 500
    # Sources whose held-out samples are scored on the way, and how many rows of each.
    validation: tuple[str, ...] = ()
    validation_rows: int = 8

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a YAML file.

        Raises:
          RecipeError: the file, a key or a value cannot be used.
        """
        path = Path(path)
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RecipeError(f"recipe {str(path)!r} cannot be read: {error}") from None
        if not isinstance(raw, dict):
            raise RecipeError(f"recipe {str(path)!r}: must be a mapping of keys to values")
        try:
            return cls.from_dict(raw)
        except (ValueError, TypeError) as error:
            raise RecipeError(f"recipe {str(path)!r}: {error}") from None

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Recipe:
        known = {field.name: field for field in fields(cls)}
        if unknown := sorted(set(raw) - set(known)):
            raise RecipeError(f"{unknown[0]}: is no key of a recipe; known: {', '.join(known)}")
        needed = [n for n, f in known.items() if f.default is MISSING and n not in raw]
        if needed:
            raise RecipeError(f"{needed[0]}: is missing")
        values = dict(raw)
        values["phases"] = tuple(_phase(phase) for phase in raw["phases"])
        values["validation"] = tuple(raw.get("validation", ()))
        recipe = cls(**values)
        recipe._check()
        return recipe

    def _check(self) -> None:
        for key in ("rows", "row_length", "steps", "learning_rate", "log_every"):
            if not getattr(self, key) > 0:
                raise RecipeError(f"{key} = {getattr(self, key)!r}: must be positive")
        if (self.preset is None) == (self.init is None):
            raise RecipeError("preset, init: give exactly one of them")
        untils = [phase.until for phase in self.phases]
        if not untils or untils != sorted(untils) or untils[-1] != 1:
            raise RecipeError(f"phases: until = {untils}: must rise and end at 1")
        for name in self.validation:
            source(name)

    def phase_at(self, step: int) -> Phase:
        """The phase that step number `step` (from 0) draws from."""
        return next(phase for phase in self.phases if step < phase.until * self.steps)


def _phase(raw: Mapping[str, Any]) -> Phase:
    try:
        phase = Phase(str(raw["name"]), float(raw["until"]), dict(raw["mixture"]))
    except (KeyError, TypeError, ValueError) as error:
        raise RecipeError(f"phases: needs name, until and mixture ({error!r})") from None
    for name, weight in phase.mixture.items():
        source(name)
        if not weight >= 0:
            raise RecipeError(f"phases: weight of {name} = {weight!r}: must be 0 or more")
    return phase
