"""A training run from its recipe: where it lives, what it starts from, what it leaves behind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch

from services.trainer.data import source
from services.trainer.data.sample import generator
from services.trainer.loop import train
from services.trainer.mixture import Batches, Style
from services.trainer.recipe import Recipe
from services.trainer.step import NextToken
from shared.errors import InvalidArgument
from shared.model.checkpoint import Checkpoint, CheckpointError, load_model, save
from shared.model.config import Step3Config
from shared.model.init import initialize, is_vision
from shared.model.presets import preset
from shared.model.step3 import Step3ForConditionalGeneration
from shared.settings import settings
from shared.text import train_tokenizer
from shared.text.tokenizer import TOKENIZER_FILE, Tokenizer

# Files of a shipped checkpoint stay below this, so that any host takes them.
SHARD_BYTES = 15 * 2**20
_RECIPE = "recipe.yaml"
# What may change between a run's start and its continuation: no weight depends on it.
_MAY_CHANGE = frozenset(
    {
        "workers",
        "log_every",
        "checkpoint_every",
        "validate_every",
        "validation",
        "validation_rows",
    }
)


def runs_folder() -> Path:
    """STEP3_HOME/runs."""
    return settings().home / "runs"


def start(
    recipe_path: Path,
    style: Style,
    *,
    resume: str | None = None,
    max_seconds: float | None = None,
    max_steps: int | None = None,
) -> Path:
    """Run a recipe to its end and write the model; its folder.

    Args:
      recipe_path: the YAML file.
      style: how samples become tokens.
      resume: name of the run to continue; without it an existing run is refused.
      max_seconds: compress the schedule to end by then.
      max_steps: fewer steps than the recipe's, on the same schedule compressed.

    Raises:
      InvalidArgument: the run exists already, cannot be continued with this recipe, or the model
        that it takes over does not exist or does not fit.
      RecipeError: the recipe cannot be used.
    """
    recipe = Recipe.load(recipe_path)
    if max_steps is not None:
        recipe = replace(recipe, steps=max_steps)
    run = runs_folder() / (recipe.name if resume is None else resume)
    if resume is not None:
        _check_continues(recipe, run)
    elif run.exists():
        raise InvalidArgument(
            f"name = {recipe.name!r}: {str(run)!r} exists: remove it, or continue it with "
            f"--resume {recipe.name}",
            reason="RUN_EXISTS",
            field="name",
        )
    origin = None if recipe.init is None else _origin("init", recipe.init)
    seeing = None if recipe.vision is None else _origin("vision", recipe.vision)
    run.mkdir(parents=True, exist_ok=True)
    recipe.save(run / _RECIPE)

    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model, tokenizer = _prepare(recipe, origin, seeing, run)
    except BaseException:
        # Nothing was trained: what is left would only stand in the way of the next try.
        if resume is None:
            shutil.rmtree(run)
        raise
    model = model.to(device).train()
    step_fn = NextToken(model, balance=recipe.balance, z_loss=recipe.z_loss)
    batches = Batches(
        recipe, "caption" if recipe.compact_layers else style, tokenizer, model.config
    )
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


def _check_continues(recipe: Recipe, run: Path) -> None:
    if not (run / _RECIPE).is_file():
        names = sorted(path.parent.name for path in run.parent.glob(f"*/{_RECIPE}"))
        raise InvalidArgument(
            f"--resume {run.name}: {str(run.parent)!r} holds no run of that name; "
            f"there are: {', '.join(names) or 'none'}",
            reason="RUN_NOT_FOUND",
            field="resume",
        )
    started = asdict(Recipe.load(run / _RECIPE))
    for key, value in asdict(recipe).items():
        if key not in _MAY_CHANGE and started[key] != value:
            raise InvalidArgument(
                f"--resume {run.name}: the recipe has {key} = {value!r}, the run was started with "
                f"{started[key]!r}; use {str(run / _RECIPE)!r}",
                reason="RECIPE_MISMATCH",
                field=key,
            )


def _origin(key: str, value: str) -> Path:
    """The folder of the model that a run starts from: another run's, or `value` itself."""
    folder = runs_folder() / value / "model"
    if not folder.exists():
        folder = Path(value)
    if not (folder / TOKENIZER_FILE).is_file():
        raise InvalidArgument(
            f"{key} = {value!r}: is neither a finished run of {str(runs_folder())!r} "
            "nor a model folder; train that run first",
            reason="MODEL_NOT_FOUND",
            field=key,
        )
    return folder


def _prepare(
    recipe: Recipe, origin: Path | None, seeing: Path | None, run: Path
) -> tuple[Step3ForConditionalGeneration, Tokenizer]:
    """The model to train, and the run's tokenizer.json."""
    if origin is not None:
        shutil.copyfile(origin / TOKENIZER_FILE, run / TOKENIZER_FILE)
        return load_model(origin), Tokenizer.from_dir(run)
    assert recipe.preset is not None
    if not (run / TOKENIZER_FILE).exists():
        trained = train_tokenizer.train_tokenizer(_corpus(recipe), recipe.vocab_size)
        train_tokenizer.save(trained, run)
    tokenizer = Tokenizer.from_dir(run)
    config = with_tokenizer(preset(recipe.preset), tokenizer)
    if recipe.compact_layers:
        config = compact(config, recipe.compact_layers)
    model = Step3ForConditionalGeneration(config)
    initialize(model, recipe.seed)
    if seeing is not None:
        _take_vision(model, seeing)
    return model, tokenizer


def compact(config: Step3Config, layers: int) -> Step3Config:
    """`config` with a text model of `layers` dense layers."""
    return replace(config, text=replace(config.text, num_hidden_layers=layers, moe_layers=()))


def _take_vision(model: Step3ForConditionalGeneration, folder: Path) -> None:
    """Replace the image encoder and the connector by those of `folder`.

    Raises:
      InvalidArgument: they are missing there, or of other dimensions.
    """
    own = model.state_dict()
    wanted = {name: own[name] for name in own if is_vision(name)}
    try:
        taken = Checkpoint.open(folder).load(wanted, torch.float32)
    except CheckpointError as error:
        raise InvalidArgument(
            f"vision = {str(folder)!r}: does not fit this preset's image encoder: {error}",
            reason="MODEL_MISMATCH",
            field="vision",
        ) from error
    model.load_state_dict(taken, strict=False)


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
