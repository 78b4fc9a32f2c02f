"""A training recipe: one YAML file says what is trained, on which mixture, for how long."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from services.trainer.data import source
from shared.model.presets import PRESETS

# The least value of whole numbers, and the range of the others.
_WHOLE = {
    "seed": 0,
    "vocab_size": 1,
    "tokenizer_samples": 1,
    "rows": 1,
    "row_length": 2,
    "steps": 1,
    "workers": 0,
    "log_every": 1,
    "checkpoint_every": 1,
    "validate_every": 1,
    "validation_rows": 1,
    "compact_layers": 0,
}
_REAL = {
    "learning_rate": (1e-9, 1.0),
    "vision_rate": (0.0, 1.0),
    "vision_start": (0.0, 1.0),
    "final_rate": (0.0, 1.0),
    "warmup": (0.0, 1.0),
    "decay": (0.0, 1.0),
    "weight_decay": (0.0, 1.0),
    "clip": (1e-9, 1e9),
    "balance": (0.0, 1.0),
    "z_loss": (0.0, 1.0),
}


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
    """See recipes/nano-vision.yaml, nano-pretrain.yaml and nano-sft.yaml for every key in use."""

    name: str
    # A preset's name (pretraining from scratch), or where to start from: another run's name or a
    # model folder.
    preset: str | None = None
    init: str | None = None
    # With a preset: this many dense layers stand in for its text model while the image encoder
    # learns from captions (Step3's first multimodal stage); 0 is the whole model, on documents.
    compact_layers: int = 0
    # With a preset: the run or model folder that the image encoder and the connector come from.
    vision: str | None = None
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
    # The image encoder's rate as a share of the others'. No norm follows its last layer: at the
    # text model's rate its features grow without bound until all images look the same.
    vision_rate: float = 0.3
    # It stays as it is until this share of all steps. A text model that has not learnt the language
    # yet takes images for a bias that all texts share, and teaches the encoder to give just that.
    vision_start: float = 0.0
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
        for key in ("phases", "validation"):
            if not isinstance(raw.get(key, []), list | tuple):
                raise RecipeError(f"{key} = {raw[key]!r}: must be a list")
        values["phases"] = tuple(_phase(phase) for phase in raw["phases"])
        values["validation"] = tuple(raw.get("validation", ()))
        recipe = cls(**values)
        recipe._check()
        return recipe

    def save(self, path: Path) -> None:
        """Write a YAML file that `load` reads back as an equal recipe."""
        raw = {key: value for key, value in asdict(self).items() if value is not None}
        temporary = path.with_suffix(".tmp")
        temporary.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
        temporary.replace(path)

    def _check(self) -> None:
        if not (isinstance(self.name, str) and re.fullmatch(r"[\w-][\w.-]*", self.name)):
            raise RecipeError(f"name = {self.name!r}: must be letters, digits, '-', '_' and '.'")
        for key, least in _WHOLE.items():
            value = getattr(self, key)
            if type(value) is not int or value < least:
                raise RecipeError(f"{key} = {value!r}: must be a whole number from {least}")
        for key, (low, high) in _REAL.items():
            value = getattr(self, key)
            if isinstance(value, str):
                raise RecipeError(
                    f"{key} = {value!r}: must be a number; YAML needs the point of 1.0e-3"
                )
            if type(value) not in (int, float) or not low <= value <= high:
                raise RecipeError(f"{key} = {value!r}: must be a number from {low:g} to {high:g}")
        if self.warmup + self.decay > 1:
            raise RecipeError(f"warmup + decay = {self.warmup + self.decay:g}: must be 1 at most")
        if (self.preset is None) == (self.init is None):
            raise RecipeError(
                f"preset = {self.preset!r}, init = {self.init!r}: give exactly one of them"
            )
        for key in ("compact_layers", "vision"):
            if getattr(self, key) and self.preset is None:
                raise RecipeError(
                    f"{key} = {getattr(self, key)!r}: goes with preset, not with init"
                )
        if self.preset is not None and self.preset not in PRESETS:
            raise RecipeError(f"preset = {self.preset!r}: must be one of {', '.join(PRESETS)}")
        untils = [phase.until for phase in self.phases]
        if not untils or untils != sorted(untils) or untils[-1] != 1:
            raise RecipeError(f"phases: until = {untils}: must rise and end at 1")
        for name in self.validation:
            _check_source("validation", name)

    def phase_at(self, step: int) -> Phase:
        """The phase that step number `step` (from 0) draws from."""
        return next(phase for phase in self.phases if step < phase.until * self.steps)


def _phase(raw: Mapping[str, Any]) -> Phase:
    try:
        phase = Phase(str(raw["name"]), float(raw["until"]), dict(raw["mixture"]))
    except (KeyError, TypeError, ValueError) as error:
        raise RecipeError(f"phases: needs name, until and mixture ({error!r})") from None
    for name, weight in phase.mixture.items():
        _check_source(f"phases, {phase.name}", name)
        if type(weight) not in (int, float) or not weight >= 0:
            raise RecipeError(
                f"phases, {phase.name}: weight of {name} = {weight!r}: must be a number from 0"
            )
    if not sum(phase.mixture.values()) > 0:
        raise RecipeError(f"phases, {phase.name}: the mixture has no source with a weight above 0")
    return phase


def _check_source(key: str, name: str) -> None:
    try:
        source(name)
    except ValueError as error:
        raise RecipeError(f"{key}: {error}") from None
