import json

import pytest
import torch

from services.trainer.loop import optimizer_for, train
from services.trainer.mixture import Batches
from services.trainer.recipe import Recipe, RecipeError
from services.trainer.schedule import learning_rate
from services.trainer.state import load_state, save_state
from services.trainer.step import NextToken, exact_share, router_losses
from shared.model.init import initialize
from shared.model.step3 import Step3ForConditionalGeneration


def _trained(config, recipe, tokenizer, folder, **how):
    model = Step3ForConditionalGeneration(config)
    initialize(model, 0)
    step_fn = NextToken(model.train(), balance=0.01, z_loss=1e-4)
    train(recipe, step_fn, Batches(recipe, "chat", tokenizer, config), folder, **how)
    return model.state_dict()


def test_resumed_training_is_bit_identical(config, recipe, tokenizer, tmp_path):
    torch.set_num_threads(1)
    whole = _trained(config, recipe, tokenizer, tmp_path / "whole")
    _trained(config, recipe, tokenizer, tmp_path / "parts", stop_at=2)
    parts = _trained(config, recipe, tokenizer, tmp_path / "parts")
    assert all(whole[name].equal(parts[name]) for name in whole)
    lines = (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def test_one_batch_is_learnt_by_heart(config, recipe, tokenizer, model):
    batch = Batches(recipe, "chat", tokenizer, config)[0]
    step_fn = NextToken(model, balance=0.01, z_loss=1e-4)
    optimizer = optimizer_for(model, recipe)
    for _ in range(80):
        result = step_fn(batch)
        result.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert float(result.metrics["loss"]) < 0.4
    assert exact_share(model, batch) > 0


def test_a_damaged_state_falls_back_to_the_one_before(tmp_path, caplog):
    for step in (1, 2, 3):
        save_state(tmp_path, step, {"step": step})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-0000002", "step-0000003"]
    newest = tmp_path / "step-0000003" / "state.pt"
    newest.write_bytes(newest.read_bytes()[:-10])
    assert load_state(tmp_path) == {"step": 2}
    assert "is damaged" in caplog.text
    (tmp_path / "step-0000002" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="every checkpoint is damaged"):
        load_state(tmp_path)


def test_balance_is_one_when_even_and_rises_when_not():
    even_TE = torch.eye(4).repeat(8, 1) * 1e-3
    everyone = torch.ones(32, dtype=torch.bool)
    balance, _, violation = router_losses(even_TE, everyone, 1)
    assert float(balance) == pytest.approx(1, abs=1e-3)
    assert float(violation) == pytest.approx(0)
    lopsided_TE = torch.zeros(32, 4)
    lopsided_TE[:, 0] = 5
    balance, _, violation = router_losses(lopsided_TE, everyone, 1)
    assert float(balance) > 3
    assert float(violation) == pytest.approx(3)
    lopsided_TE[:16] = even_TE[:16]
    balance, _, _ = router_losses(lopsided_TE, everyone.index_fill(0, torch.arange(16, 32), 0), 1)
    assert float(balance) == pytest.approx(1, abs=1e-3)


def test_rate_warms_up_stays_and_decays(recipe):
    rates = [learning_rate(recipe, p) / recipe.learning_rate for p in (0.01, 0.5, 0.8, 1.0)]
    assert rates == pytest.approx([0.5, 1, 1, recipe.final_rate])


def test_the_image_encoder_has_its_own_rate(model, recipe):
    shares = {
        id(parameter): group["share"]
        for group in optimizer_for(model, recipe).param_groups
        for parameter in group["params"]
    }
    assert len(shares) == len(list(model.parameters()))
    assert shares[id(model.vit_downsampler.weight)] == recipe.vision_rate
    assert shares[id(model.lm_head.weight)] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lerning_rate": 1}, "lerning_rate: is no key"),
        ({"rows": 0}, "rows = 0: must be positive"),
        ({"init": "x"}, "preset, init: give exactly one"),
        ({"phases": [{"name": "a", "until": 0.5, "mixture": {}}]}, "must rise and end at 1"),
        ({"phases": [{"name": "a", "until": 1, "mixture": {"sums": 1}}]}, "source 'sums'"),
    ],
)
def test_a_wrong_recipe_names_the_key(change, message):
    good = {
        "name": "t",
        "preset": "tiny",
        "rows": 1,
        "row_length": 8,
        "steps": 1,
        "learning_rate": 1.0,
        "phases": [{"name": "a", "until": 1, "mixture": {"number": 1}}],
    }
    Recipe.from_dict(good)
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict(good | change)
