import random
import re

from services.trainer.data.wording import DEFAULT_SYSTEM, system_prompt, vary


def test_variants_keep_every_number_and_operator():
    rng = random.Random(1)
    for _ in range(2000):
        text = vary(rng, "What is 47 + 38?")
        assert re.findall(r"[\d+]+", text) == ["47", "+", "38"]


def test_variants_are_many_and_the_plain_one_is_common():
    rng = random.Random(1)
    texts = [vary(rng, "Count the shapes.") for _ in range(1000)]
    assert len(set(texts)) > 50
    assert texts.count("Count the shapes.") > 200


def test_a_one_letter_question_survives():
    rng = random.Random(1)
    assert all(vary(rng, "I").strip() for _ in range(500))


def test_system_prompts():
    rng = random.Random(1)
    drawn = [system_prompt(rng) for _ in range(1000)]
    assert drawn.count(None) > 300
    assert drawn.count(DEFAULT_SYSTEM) > 300
    assert len(set(drawn)) > 5
