"""Batches are functions of the step: no order, no worker and no restart changes them."""

from dataclasses import fields, replace

import torch

from services.trainer.data import source
from services.trainer.data.sample import generator
from services.trainer.mixture import Batches, loader
from services.trainer.recipe import Recipe


def test_a_batch_is_a_function_of_its_step(tokenizer, config, recipe):
    one, same = (Batches(recipe, "document", tokenizer, config)[3] for _ in range(2))
    assert one.ids_RL.equal(same.ids_RL)
    assert one.thumbnails_I3SS.equal(same.thumbnails_I3SS)
    assert not one.ids_RL.equal(Batches(recipe, "document", tokenizer, config)[2].ids_RL)


def test_another_seed_or_name_gives_other_batches(tokenizer, config, recipe):
    batches = [
        Batches(replace(recipe, **change), "chat", tokenizer, config)[0].ids_RL
        for change in ({}, {"seed": 9}, {"name": "other"})
    ]
    assert not batches[0].equal(batches[1])
    assert not batches[0].equal(batches[2])


def test_loader_processes_change_nothing(tokenizer, config, recipe):
    expected = list(loader(Batches(recipe, "chat", tokenizer, config), 1, 4))
    with_workers = replace(recipe, workers=2)
    found = list(loader(Batches(with_workers, "chat", tokenizer, config), 1, 4))
    assert len(found) == len(expected) == 3
    for one, other in zip(expected, found, strict=True):
        for field in fields(one):
            a, b = getattr(one, field.name), getattr(other, field.name)
            assert a.equal(b) if isinstance(a, torch.Tensor) else a == b


def test_a_phase_draws_from_its_mixture_only(tokenizer, config, raw_recipe):
    raw_recipe["phases"] = [
        {"name": "text", "until": 0.5, "mixture": {"arithmetic": 1, "number": 0}},
        {"name": "images", "until": 1, "mixture": {"arithmetic": 0, "number": 1}},
    ]
    batches = Batches(Recipe.from_dict(raw_recipe), "chat", tokenizer, config)
    assert [len(batches[step].thumbnails_I3SS) > 0 for step in range(4)] == [False] * 2 + [True] * 2


def test_held_out_batches_hold_held_out_samples(tokenizer, config, recipe):
    batches = Batches(recipe, "chat", tokenizer, config)
    first = source("arithmetic-two-digit")(
        generator("validation", "arithmetic-two-digit", 0), "heldout"
    )
    ids = batches.held_out("arithmetic-two-digit").ids_RL
    expected = torch.tensor(batches.renderer.chat(first).ids)
    assert ids[0, : len(expected)].equal(expected)
