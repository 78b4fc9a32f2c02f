import pytest

from services.trainer.data import source
from services.trainer.data.sample import generator
from services.trainer.evaluate import Greedy, evaluate, is_correct
from services.trainer.example import Renderer
from shared.model.generate import generate


@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        ("47 + 38 = 85.", "85", True),
        ("47 + 38 = 85.", "38", False),
        ("35 - 964 = -929.", "-929", True),
        ("35 - 964 = -929.", "929", False),
        ("The square is red.", "red", True),
        ("The square is bored.", "red", False),
        ("No number here.", "4", False),
    ],
)
def test_grading(reply, answer, right):
    assert is_correct(reply, answer) is right


def test_a_scripted_model_scores_what_it_says(tokenizer, config):
    task, n = "arithmetic-two-digit", 8
    samples = [source(task)(generator("evaluation", 0, task, i), "heldout") for i in range(n)]

    def answer(prompts):
        replies = [
            tokenizer.encode(f"thinking\n</think>\n{s.turns[-1].reply}<|EOT|>", allow_special=True)
            for s in samples
        ]
        replies[0] = tokenizer.encode("still thinking", allow_special=False)
        replies[1] = tokenizer.encode("\n</think>\n12345.<|EOT|>", allow_special=True)
        return replies

    (score,) = evaluate(Renderer(tokenizer, config), answer, [task], n)
    assert (score.n, score.correct, score.finished) == (n, n - 2, round((n - 1) / n, 4))


def test_batched_greedy_equals_one_by_one(tokenizer, config, model, monkeypatch):
    monkeypatch.setattr("services.trainer.evaluate.MAX_NEW_TOKENS", 6)
    renderer = Renderer(tokenizer, config)
    prompts = [
        renderer.prompt(source("arithmetic-two-digit")(generator("g", i), "train"))
        for i in range(5)
    ]
    batched = Greedy(model, config.eos_token_id)(prompts)
    for prompt, ids in zip(prompts, batched, strict=True):
        steps = generate(model, prompt.ids, max_new_tokens=6, stop_ids=[config.eos_token_id])
        assert [step.token_id for step in steps] == ids
