from dataclasses import replace
from itertools import pairwise

import pytest

from services.trainer.schedule import learning_rate, vision_share


def test_rate_warms_up_stays_and_decays(recipe):
    rates = [learning_rate(recipe, p) / recipe.learning_rate for p in (0.01, 0.5, 0.8, 1.0)]
    assert rates == pytest.approx([0.5, 1, 1, recipe.final_rate])


def test_rate_never_jumps(recipe):
    rates = [learning_rate(recipe, step / 1000) for step in range(1001)]
    rises = [abs(after - before) for before, after in pairwise(rates)]
    assert max(rises) < 0.08 * recipe.learning_rate
    assert rates[0] == 0
    assert min(rates[1:]) >= recipe.final_rate * recipe.learning_rate


def test_warm_up_and_decay_may_be_left_out(recipe):
    constant = replace(recipe, warmup=0.0, decay=0.0)
    for progress in (0.0, 0.5, 1.0, 1.0 + 1e-12):
        assert learning_rate(constant, progress) == recipe.learning_rate


def test_progress_past_the_end_stays_at_the_floor(recipe):
    floor = recipe.final_rate * recipe.learning_rate
    assert learning_rate(recipe, 1.2) == pytest.approx(floor)


def test_the_image_encoder_waits_and_then_warms_up(recipe):
    assert vision_share(recipe, 0.0) == recipe.vision_rate
    waiting = replace(recipe, vision_start=0.2, warmup=0.1, vision_rate=0.3)
    shares = [vision_share(waiting, progress) for progress in (0.0, 0.2, 0.25, 0.3, 0.9)]
    assert shares == pytest.approx([0, 0, 0.15, 0.3, 0.3])
