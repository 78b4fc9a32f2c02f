"""A model, a tokenizer and a recipe small enough to train in a test."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from services.trainer.data import source
from services.trainer.data.sample import generator
from services.trainer.example import Renderer
from services.trainer.recipe import Recipe
from services.trainer.run import with_tokenizer
from shared.model.config import Step3Config
from shared.model.init import initialize
from shared.model.presets import TINY
from shared.model.step3 import Step3ForConditionalGeneration
from shared.text.tokenizer import Tokenizer
from shared.text.train_tokenizer import train_tokenizer

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def built_in_font(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pictures on every machine."""
    monkeypatch.delenv("STEP3_FONTS", raising=False)


@pytest.fixture
def rng() -> random.Random:
    return random.Random(7)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    def texts():
        for index in range(60):
            for name in ("arithmetic", "manners", "outside"):
                turn = source(name)(generator("test", name, index), "train").turns[-1]
                yield from (turn.question, turn.reasoning, turn.reply)

    return Tokenizer(train_tokenizer(texts(), 420))


@pytest.fixture(scope="session")
def config(tokenizer: Tokenizer) -> Step3Config:
    """`tiny` with images of 112 pixels."""
    vision = replace(TINY.vision, image_size=112, crop_size=84)
    return with_tokenizer(replace(TINY, vision=vision), tokenizer)


@pytest.fixture(scope="session")
def renderer(tokenizer: Tokenizer, config: Step3Config) -> Renderer:
    return Renderer(tokenizer, config)


@pytest.fixture
def sizes(config: Step3Config) -> dict[str, int]:
    """What `pack` needs to know of the model."""
    return {"crop_tokens": config.patch_token_len, "thumbnail_tokens": config.image_token_len}


@pytest.fixture
def make_model(config: Step3Config) -> Callable[[int], Step3ForConditionalGeneration]:
    def make(seed: int) -> Step3ForConditionalGeneration:
        model = Step3ForConditionalGeneration(config)
        initialize(model, seed)
        return model.train()

    return make


@pytest.fixture
def model(make_model: Callable[[int], Step3ForConditionalGeneration]):
    return make_model(0)


@pytest.fixture
def raw_recipe() -> dict[str, Any]:
    """A recipe as YAML gives it."""
    return {
        "name": "small",
        "preset": "tiny",
        "vocab_size": 320,
        "tokenizer_samples": 50,
        "rows": 2,
        "row_length": 320,
        "steps": 4,
        "learning_rate": 3e-3,
        "log_every": 1,
        "phases": [
            {"name": "first", "until": 0.5, "mixture": {"arithmetic": 1, "number": 2}},
            {"name": "last", "until": 1, "mixture": {"shapes-count": 1, "manners": 2}},
        ],
    }


@pytest.fixture
def recipe(raw_recipe: dict[str, Any]) -> Recipe:
    return Recipe.from_dict(raw_recipe)
