"""Every error names the file, the key and the value."""

import re
from pathlib import Path

import pytest

from services.trainer.recipe import Recipe, RecipeError

REPOSITORY = Path(__file__).parents[3]
MIXTURE = {"arithmetic": 1}


@pytest.mark.parametrize("path", sorted((REPOSITORY / "recipes").glob("nano-*.yaml")))
def test_shipped_recipes_load_and_are_saved_unchanged(path, tmp_path):
    recipe = Recipe.load(path)
    assert recipe.name == path.stem
    recipe.save(tmp_path / "recipe.yaml")
    assert Recipe.load(tmp_path / "recipe.yaml") == recipe
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lerning_rate": 1}, "lerning_rate: is no key"),
        ({"name": "../x"}, "name = '../x': must be letters"),
        ({"name": 5}, "name = 5: must be letters"),
        ({"rows": 0}, "rows = 0: must be a whole number from 1"),
        ({"rows": "two"}, "rows = 'two': must be a whole number"),
        ({"steps": 1.5}, "steps = 1.5: must be a whole number"),
        ({"workers": True}, "workers = True: must be a whole number"),
        ({"workers": -1}, "workers = -1: must be a whole number from 0"),
        ({"learning_rate": "1e-3"}, "learning_rate = '1e-3': must be a number; YAML needs"),
        ({"learning_rate": 0}, "learning_rate = 0: must be a number from 1e-09 to 1"),
        ({"learning_rate": float("nan")}, "learning_rate = nan: must be a number"),
        ({"decay": 1.5}, "decay = 1.5: must be a number from 0 to 1"),
        ({"warmup": 0.6, "decay": 0.6}, "warmup + decay = 1.2: must be 1 at most"),
        ({"init": "x"}, "preset = 'tiny', init = 'x': give exactly one"),
        ({"preset": None}, "preset = None, init = None: give exactly one"),
        (
            {"preset": None, "init": "x", "compact_layers": 2},
            "compact_layers = 2: goes with preset, not with init",
        ),
        (
            {"preset": None, "init": "x", "vision": "y"},
            "vision = 'y': goes with preset, not with init",
        ),
        ({"compact_layers": -1}, "compact_layers = -1: must be a whole number from 0"),
        ({"preset": "huge"}, "preset = 'huge': must be one of step3, "),
        ({"validation": "number"}, "validation = 'number': must be a list"),
        ({"validation": ["sums"]}, "validation: source 'sums': must be one of arithmetic"),
        ({"phases": 3}, "phases = 3: must be a list"),
        ({"phases": []}, "phases: until = []: must rise and end at 1"),
        ({"phases": [{"name": "a", "until": 1}]}, "phases: needs name, until and mixture"),
        (
            {"phases": [{"name": "a", "until": 0.5, "mixture": MIXTURE}]},
            "phases: until = [0.5]: must rise and end at 1",
        ),
        (
            {"phases": [{"name": "a", "until": 1, "mixture": {"sums": 1}}]},
            "phases, a: source 'sums': must be one of",
        ),
        (
            {"phases": [{"name": "a", "until": 1, "mixture": {"number": "many"}}]},
            "phases, a: weight of number = 'many': must be a number from 0",
        ),
        (
            {"phases": [{"name": "a", "until": 1, "mixture": {"number": 0}}]},
            "phases, a: the mixture has no source with a weight above 0",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_key(raw_recipe, change, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        Recipe.from_dict(raw_recipe | change)


@pytest.mark.parametrize("key", ["name", "rows", "phases", "learning_rate"])
def test_a_missing_key_is_named(raw_recipe, key):
    del raw_recipe[key]
    with pytest.raises(RecipeError, match=f"{key}: is missing"):
        Recipe.from_dict(raw_recipe)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "cannot be read"), ("- 1", "must be a mapping"), ("rows: 0", "name: is missing")],
)
def test_errors_name_the_file(tmp_path, text, message):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=f"broken.yaml.*{message}"):
        Recipe.load(path)
    with pytest.raises(RecipeError, match=r"absent.yaml.*cannot be read"):
        Recipe.load(tmp_path / "absent.yaml")


def test_a_phase_ends_where_it_says(recipe):
    assert [recipe.phase_at(step).name for step in range(4)] == ["first", "first", "last", "last"]
