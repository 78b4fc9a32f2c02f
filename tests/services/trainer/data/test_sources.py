"""What holds for every source: a function of its generator, disjoint splits, gradable answers."""

import hashlib
import os
import subprocess
import sys

import pytest

from services.trainer.data import SOURCES, source
from services.trainer.data.sample import Sample, generator, is_held_out
from services.trainer.evaluate import SUITES, is_correct


def fingerprint(sample: Sample) -> str:
    digest = hashlib.sha256(repr((sample.system, sample.answer)).encode())
    for turn in sample.turns:
        digest.update(repr((turn.question, turn.reasoning, turn.reply)).encode())
        for image in turn.images:
            digest.update(repr(image.size).encode() + image.tobytes())
    return digest.hexdigest()


def all_fingerprints() -> str:
    digest = hashlib.sha256()
    for name in SOURCES:
        for index in range(4):
            digest.update(fingerprint(source(name)(generator(1, name, index), "train")).encode())
    return digest.hexdigest()


@pytest.mark.parametrize("name", SOURCES)
def test_a_sample_is_a_function_of_its_key(name):
    first, again = (
        [fingerprint(source(name)(generator("key", i), "heldout")) for i in range(6)]
        for _ in range(2)
    )
    assert first == again
    assert len(set(first)) > 2


def test_another_process_draws_the_same_samples():
    code = f"import runpy; print(runpy.run_path({__file__!r})['all_fingerprints']())"
    environment = {**os.environ, "PYTHONHASHSEED": "99"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == all_fingerprints()


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_reply_that_teaches_is_graded_as_right(name, split):
    for index in range(30):
        sample = source(name)(generator("graded", index), split)
        assert is_correct(sample.turns[-1].reply, sample.answer), sample


@pytest.mark.parametrize("name", SOURCES)
def test_images_are_rgb_and_text_is_not_empty(name):
    for index in range(10):
        for turn in source(name)(generator("shape", index), "train").turns:
            assert turn.question.strip() and turn.reasoning and turn.reply
            assert all(image.mode == "RGB" for image in turn.images)


def test_one_problem_in_ten_is_held_out():
    share = sum(is_held_out(("+", i, j)) for i in range(100) for j in range(100)) / 10_000
    assert 0.09 < share < 0.11


def test_unknown_source_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'sums'.*arithmetic, .*conversation"):
        source("sums")


def test_every_suite_is_made_of_sources():
    assert {task for suite in SUITES.values() for task in suite} <= set(SOURCES)
