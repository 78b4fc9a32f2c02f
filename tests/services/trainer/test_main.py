"""The trainer's command line: what it says and how it exits."""

import json
import re

import pytest
import yaml
from typer.testing import CliRunner

from services.trainer import __main__ as main
from services.trainer.evaluate import Score
from services.trainer.loop import DivergedError
from shared.settings import settings


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setenv("STEP3_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(main.app, [str(a) for a in arguments])
    settings.cache_clear()


@pytest.fixture
def recipe_file(raw_recipe, tmp_path):
    path = tmp_path / "small.yaml"
    phases = [{"name": "text", "until": 1, "mixture": {"arithmetic": 1}}]
    path.write_text(yaml.safe_dump(raw_recipe | {"phases": phases}))
    return path


@pytest.mark.parametrize("command", ["pretrain", "sft", "eval"])
def test_help_has_an_example(run, command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"python -m services.trainer {command}" in " ".join(result.output.split())


def test_training_prints_the_model_folder(run, recipe_file, tmp_path):
    result = run("pretrain", recipe_file, "--steps", "1")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tmp_path / "home" / "runs" / "small" / "model")
    again = run("pretrain", recipe_file, "--steps", "1", "--resume", "small")
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["pretrain", "absent.yaml"],
            r"error: recipe 'absent.yaml' cannot be read: .*No such file",
        ),
        (["eval", "models/absent", "--suite", "best"], "error: suite 'best': must be one of"),
    ],
)
def test_misuse_is_one_sentence_and_exit_status_2(run, arguments, sentence):
    result = run(*arguments)
    assert result.exit_code == 2
    assert re.match(sentence, result.stderr)
    assert len(result.stderr.splitlines()) == 1


def test_an_unknown_run_is_misuse(run, recipe_file):
    result = run("sft", recipe_file, "--resume", "lost")
    assert result.exit_code == 2
    assert "--resume lost:" in result.stderr and "there are: none" in result.stderr


def test_resume_needs_a_name(run, recipe_file):
    assert run("sft", recipe_file, "--resume").exit_code == 2
    assert run("pretrain", recipe_file, "--steps", "0").exit_code == 2


def test_a_missing_model_is_a_failure(run, tmp_path):
    result = run("eval", tmp_path / "absent")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ") and "absent" in result.stderr


def test_divergence_is_a_failure(run, recipe_file, monkeypatch):
    def diverge(*_, **__):
        raise DivergedError("the loss is nan at step 3: lower learning_rate")

    monkeypatch.setattr(main, "run_pretrain", diverge)
    result = run("pretrain", recipe_file)
    assert result.exit_code == 1
    assert result.stderr == "error: the loss is nan at step 3: lower learning_rate\n"


def test_scores_as_json_and_as_a_table(run, monkeypatch):
    asked = []

    def scores(*arguments):
        asked.append(arguments[1:])
        return [Score("number", 8, 6, 0.75, 1.0)]

    monkeypatch.setattr(main.evaluation, "evaluate_folder", scores)
    result = run("eval", "models/x", "--suite", "all", "--n", 8, "--json")
    assert json.loads(result.stdout) == {
        "model": "models/x",
        "suite": "all",
        "tasks": [{"task": "number", "n": 8, "correct": 6, "accuracy": 0.75, "finished": 1.0}],
    }
    assert asked == [("all", 8, 0)]
    assert "75.0%" in run("eval", "models/x").stdout
