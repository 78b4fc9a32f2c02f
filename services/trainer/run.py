"""A training run from its recipe: where it lives, what it starts from, what it leaves behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from services.trainer.data import source
from services.trainer.data.sample import generator
from services.trainer.loop import train
from services.trainer.mixture import Batches, Style
from services.trainer.recipe import Recipe
from services.trainer.step import NextToken
from shared.errors import InvalidArgument
from shared.model.checkpoint import load_model, save
from shared.model.config import Step3Config
from shared.model.init import initialize
from shared.model.presets import preset
from shared.model.step3 import Step3ForConditionalGeneration
from shared.text import train_tokenizer
from shared.text.tokenizer import TOKENIZER_FILE, Tokenizer

# Files of a shipped checkpoint stay below this, so that any host takes them.
SHARD_BYTES = 15 * 2**20
_REPOSITORY = Path(__file__).resolve().parent.parent.parent


def runs_folder() -> Path:
    """STEP3_HOME/runs."""
    return Path(os.environ.get("STEP3_HOME", _REPOSITORY / ".step3")) / "runs"


def start(
    recipe_path: Path,
    style: Style,
    *,
    resume: bool = False,
    max_seconds: float | None = None,
    max_steps: int | None = None,
) -> Path:
    """Run a recipe to its end and write the model; its folder.

    Args:
      recipe_path: the YAML file.
      style: how samples become tokens.
      resume: continue the run of that name; without it an existing run is refused.
      max_seconds: compress the schedule to end by then.
      max_steps: fewer steps than the recipe's, on the same schedule compressed.

    Raises:
      InvalidArgument: the run exists already, or there is none to resume, or it starts from nothing.
      RecipeError: the recipe cannot be used.
    """
    recipe = Recipe.load(recipe_path)
    if max_steps is not None:
        recipe = replace(recipe, steps=max_steps)
    run = runs_folder() / recipe.name
    if resume != run.exists():
        raise InvalidArgument(
            f"run folder {str(run)!r} "
            + ("does not exist: leave --resume out" if resume else "exists: use --resume, or remove it"),
            reason="RUN_NOT_FOUND" if resume else "RUN_EXISTS",
            field="recipe.name",
        )
    run.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(recipe_path, run / "recipe.yaml")

    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, tokenizer = _prepare(recipe, run)
    model = model.to(device).train()
    step_fn = NextToken(model, balance=recipe.balance, z_loss=recipe.z_loss)
    batches = Batches(recipe, style, tokenizer, model.config)
    train(recipe, step_fn, batches, run, max_seconds=max_seconds)

    out = run / "model"
    if out.exists():
        shutil.rmtree(out)
    save(
        out,
        replace(model.config, torch_dtype="bfloat16"),
        model.state_dict(),
        max_shard_bytes=SHARD_BYTES,
        files=[run / TOKENIZER_FILE],
    )
    return out


def _prepare(recipe: Recipe, run: Path) -> tuple[Step3ForConditionalGeneration, Tokenizer]:
    """The model to train, and the run's tokenizer.json."""
    if recipe.preset is not None:
        if not (run / TOKENIZER_FILE).exists():
            trained = train_tokenizer.train_tokenizer(_corpus(recipe), recipe.vocab_size)
            train_tokenizer.save(trained, run)
        tokenizer = Tokenizer.from_dir(run)
        model = Step3ForConditionalGeneration(with_tokenizer(preset(recipe.preset), tokenizer))
        initialize(model, recipe.seed)
        return model, tokenizer
    assert recipe.init is not None
    folder = runs_folder() / recipe.init / "model"
    if not folder.exists():
        folder = Path(recipe.init)
    model = load_model(folder)
    shutil.copyfile(folder / TOKENIZER_FILE, run / TOKENIZER_FILE)
    return model, Tokenizer.from_dir(run)


def with_tokenizer(config: Step3Config, tokenizer: Tokenizer) -> Step3Config:
    """`config` with the tokenizer's special ids, its vocabulary padded to a multiple of 64."""
    special = tokenizer.special
    return replace(
        config,
        text=replace(config.text, vocab_size=-(-tokenizer.vocab_size // 64) * 64),
        image_token_id=special.im_patch,
        bos_token_id=special.bos if special.bos is not None else special.bot,
        eos_token_id=special.eot,
    )


def _corpus(recipe: Recipe) -> Iterator[str]:
    """The text of samples of the first phase's mixture."""
    mixture = recipe.phases[0].mixture
    names, weights = list(mixture), list(mixture.values())
    for index in range(recipe.tokenizer_samples):
        rng = generator(recipe.seed, "tokenizer", index)
        sample = source(rng.choices(names, weights)[0])(rng, "train")
        yield sample.system or ""
        for turn in sample.turns:
            yield from (turn.question, turn.reasoning, turn.reply)
