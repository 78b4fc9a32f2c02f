"""Resuming is exact, one batch can be learnt by heart, and a diverged loss ends the run."""

import json
from collections import Counter

import pytest
import torch

from services.trainer.loop import DivergedError, optimizer_for, train
from services.trainer.mixture import Batches
from services.trainer.recipe import Recipe
from services.trainer.state import load_state
from services.trainer.step import NextToken, StepResult, exact_share


def _train(model, recipe, tokenizer, folder, **how):
    step_fn = NextToken(model, balance=0.01, z_loss=1e-4)
    batches = Batches(recipe, "chat", tokenizer, model.config)
    return train(recipe, step_fn, batches, folder, **how)


def _lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_resumed_training_is_bit_identical(make_model, recipe, tokenizer, tmp_path, stop_at):
    """Stopped within a phase and at its end; new objects of other weights go on."""
    assert _train(make_model(0), recipe, tokenizer, tmp_path / "whole") == 4
    assert _train(make_model(0), recipe, tokenizer, tmp_path / "parts", stop_at=stop_at) == stop_at
    assert _train(make_model(1), recipe, tokenizer, tmp_path / "parts") == 4
    whole, parts = (load_state(tmp_path / name / "state") for name in ("whole", "parts"))
    for name, tensor in whole["model"].items():
        assert tensor.equal(parts["model"][name]), name
    for number, moments in whole["optimizer"]["state"].items():
        for name, tensor in moments.items():
            assert tensor.equal(parts["optimizer"]["state"][number][name])
    losses = [
        [(line["step"], line["loss"]) for line in _lines(tmp_path / name)]
        for name in ("whole", "parts")
    ]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == [1, 2, 3, 4]


def test_checkpoints_come_at_their_steps(make_model, raw_recipe, tokenizer, tmp_path):
    recipe = Recipe.from_dict(raw_recipe | {"checkpoint_every": 1})
    _train(make_model(0), recipe, tokenizer, tmp_path, stop_at=3)
    names = sorted(path.name for path in (tmp_path / "state").iterdir())
    assert names == ["step-0000002", "step-0000003"]


def test_one_batch_is_learnt_by_heart(make_model, raw_recipe, tokenizer):
    """Text and an image: what the loss says, the next-token guesses confirm."""
    phases = [{"name": "one", "until": 1, "mixture": {"number": 1, "arithmetic": 1}}]
    recipe = Recipe.from_dict(raw_recipe | {"rows": 1, "row_length": 160, "phases": phases})
    model = make_model(0)
    batch = Batches(recipe, "chat", tokenizer, model.config)[2]
    assert len(batch.thumbnails_I3SS) and batch.documents > 0
    step_fn = NextToken(model, balance=0.01, z_loss=1e-4)
    optimizer = optimizer_for(model, recipe)
    for _ in range(90):
        result = step_fn(batch)
        result.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert float(result.metrics["loss"]) < 0.01
    assert exact_share(model, batch) == 1


def test_held_out_shares_are_reported(make_model, raw_recipe, tokenizer, tmp_path):
    recipe = Recipe.from_dict(
        raw_recipe | {"validation": ["arithmetic-two-digit"], "validation_rows": 1, "steps": 1}
    )
    _train(make_model(0), recipe, tokenizer, tmp_path)
    assert _lines(tmp_path)[-1] == {"step": 1, "exact/arithmetic-two-digit": 0.0}


def test_time_compresses_the_schedule(make_model, recipe, tokenizer, tmp_path):
    assert _train(make_model(0), recipe, tokenizer, tmp_path, max_seconds=1e-6) == 0


def test_a_diverged_loss_ends_the_run(make_model, recipe, tokenizer, tmp_path):
    class Infinite(NextToken):
        def __call__(self, batch):
            result = super().__call__(batch)
            return StepResult(result.loss, {"loss": torch.tensor(float("inf"))})

    model = make_model(0)
    batches = Batches(recipe, "chat", tokenizer, model.config)
    with pytest.raises(DivergedError, match="loss is inf at step 1: lower learning_rate"):
        train(recipe, Infinite(model, balance=0.01, z_loss=1e-4), batches, tmp_path)
    assert load_state(tmp_path / "state") is None


def test_every_parameter_is_in_one_group_and_only_matrices_decay(model, recipe):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    counted = Counter()
    for group in optimizer_for(model, recipe).param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            counted[name] += 1
            decays = "norm" not in name and "embed" not in name and not name.endswith("bias")
            assert (group["weight_decay"] > 0) == decays, name
    assert counted == Counter(names.values())


def test_the_image_encoder_has_its_own_rate(model, recipe):
    vision = {
        id(parameter): group["vision"]
        for group in optimizer_for(model, recipe).param_groups
        for parameter in group["params"]
    }
    assert len(vision) == len(list(model.parameters()))
    assert vision[id(model.vit_downsampler.weight)]
    assert not vision[id(model.lm_head.weight)]
