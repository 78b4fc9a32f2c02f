"""A run from its recipe to its model folder, and what its continuation insists on."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from services.trainer.pretrain import pretrain
from services.trainer.recipe import Recipe
from services.trainer.run import runs_folder
from services.trainer.sft import sft
from services.trainer.state import load_state
from shared.errors import InvalidArgument
from shared.model.checkpoint import load_model
from shared.model.init import is_vision
from shared.settings import settings
from shared.text.tokenizer import Tokenizer

TEXT = [{"name": "text", "until": 1, "mixture": {"arithmetic": 1, "manners": 1}}]


@pytest.fixture
def home(monkeypatch, tmp_path):
    """STEP3_HOME of this process and of those that it starts."""
    monkeypatch.setenv("STEP3_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    yield tmp_path / "home"
    settings.cache_clear()


@pytest.fixture
def write(raw_recipe, tmp_path):
    """Writes a recipe of text alone, with changes."""

    def write(**change):
        raw = raw_recipe | {"phases": TEXT, "checkpoint_every": 2} | change
        path = tmp_path / f"{raw['name']}.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in raw.items() if v is not None}))
        return path

    return write


def weights(folder):
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


def test_a_run_folder_holds_recipe_metrics_states_and_a_model(home, write):
    out = pretrain(write())
    run = home / "runs" / "small"
    assert out == run / "model"
    assert runs_folder() == home / "runs"
    assert {path.name for path in run.iterdir()} == {
        "recipe.yaml",
        "tokenizer.json",
        "metrics.jsonl",
        "state",
        "model",
    }
    assert Recipe.load(run / "recipe.yaml") == Recipe.load(write())
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 4
    model, tokenizer = load_model(out), Tokenizer.from_dir(out)
    assert model.config.eos_token_id == tokenizer.special.eot
    assert model.config.image_token_id == tokenizer.special.im_patch
    assert model.config.text.vocab_size >= tokenizer.vocab_size
    assert {tensor.dtype for tensor in weights(out).values()} == {torch.bfloat16}
    trained = load_state(run / "state")["model"]
    for name, tensor in weights(out).items():
        assert tensor.equal(trained[name].bfloat16()), name


def test_a_new_process_goes_on_bit_for_bit(home, write):
    """The half-way checkpoint of a whole run, continued: the same states and the same model."""
    recipe = write()
    pretrain(recipe)
    run, whole = home / "runs" / "small", home / "whole"
    shutil.move(run, whole)
    shutil.copytree(whole, run, ignore=shutil.ignore_patterns("step-0000004", "model"))
    subprocess.run(
        [
            *(sys.executable, "-P", "-m", "services.trainer"),
            *("pretrain", str(recipe), "--resume", "small"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        timeout=60,
    )
    one, other = (load_state(folder / "state") for folder in (whole, run))
    assert one["step"] == other["step"] == 4
    assert all(tensor.equal(other["model"][name]) for name, tensor in one["model"].items())
    found = weights(run / "model")
    assert all(tensor.equal(found[name]) for name, tensor in weights(whole / "model").items())


def test_fine_tuning_starts_from_a_run_by_its_name_or_from_a_folder(home, write):
    base = pretrain(write())
    for name, init in (("by-name", "small"), ("by-folder", str(base))):
        out = sft(write(name=name, preset=None, init=init, steps=1, warmup=1.0, decay=0.0))
        assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
        assert load_model(out).config.text == load_model(base).config.text
    before = weights(base)
    assert any(not tensor.equal(before[name]) for name, tensor in weights(out).items())


def test_an_existing_run_is_not_started_again(home, write):
    pretrain(write(steps=1))
    before = (home / "runs" / "small" / "metrics.jsonl").read_text()
    with pytest.raises(InvalidArgument, match=r"name = 'small'.*--resume small"):
        pretrain(write(steps=1))
    assert (home / "runs" / "small" / "metrics.jsonl").read_text() == before


def test_a_run_goes_on_with_its_own_recipe_only(home, write):
    pretrain(write(steps=1))
    with pytest.raises(InvalidArgument, match=r"seed = 5, the run was started with 0; use .*yaml"):
        pretrain(write(steps=1, seed=5), resume="small")
    with pytest.raises(InvalidArgument, match="name = 'other', the run was started with 'small'"):
        pretrain(write(steps=1, name="other"), resume="small")
    with pytest.raises(InvalidArgument, match="steps = 2, the run was started with 1"):
        pretrain(write(steps=1), resume="small", max_steps=2)
    # What no weight depends on may change.
    pretrain(write(steps=1, log_every=5, checkpoint_every=7), resume="small")


def test_the_steps_of_the_command_line_belong_to_the_run(home, write):
    pretrain(write(), max_steps=1)
    assert Recipe.load(home / "runs" / "small" / "recipe.yaml").steps == 1
    pretrain(write(), max_steps=1, resume="small")


def test_an_unknown_run_is_named_with_those_that_exist(home, write):
    pretrain(write(steps=1))
    with pytest.raises(InvalidArgument, match=r"--resume smal: .*there are: small"):
        pretrain(write(steps=1), resume="smal")
    assert not (home / "runs" / "smal").exists()


def test_a_missing_start_leaves_no_run_behind(home, write):
    with pytest.raises(InvalidArgument, match="init = 'nowhere': is neither a finished run"):
        sft(write(preset=None, init="nowhere"))
    assert not (home / "runs").exists()


def test_the_encoder_learns_with_a_compact_text_model_and_moves_to_the_whole_one(home, write):
    see = [{"name": "see", "until": 1, "mixture": {"number-large": 1}}]
    seen = pretrain(write(name="see", phases=see, compact_layers=1, vocab_size=300))
    compact = load_model(seen).config.text
    assert (compact.num_hidden_layers, compact.moe_layers) == (1, ())
    whole = write(name="whole", vision="see", vision_start=0.9, steps=2)
    taken = weights(pretrain(whole))
    encoder = {name: tensor for name, tensor in weights(seen).items() if is_vision(name)}
    assert encoder
    for name, tensor in encoder.items():
        assert taken[name].equal(tensor), name


def test_a_missing_encoder_is_named(home, write):
    with pytest.raises(InvalidArgument, match="vision = 'nowhere': is neither a finished run"):
        pretrain(write(vision="nowhere"))
    assert not (home / "runs" / "small").exists()


def test_an_encoder_that_does_not_fit_leaves_no_run_behind(home, write):
    see = [{"name": "see", "until": 1, "mixture": {"number-large": 1}}]
    pretrain(write(name="see", phases=see, compact_layers=1, vocab_size=300, steps=1))
    for _ in range(2):
        with pytest.raises(InvalidArgument, match=r"vision = '.*see/model': does not fit .*tensor"):
            pretrain(write(name="other", preset="nano", vision="see"))
        assert not (home / "runs" / "other").exists()
