import pytest

from services.trainer.data import source
from services.trainer.data.sample import generator
from services.trainer.evaluate import Greedy, evaluate, evaluate_folder, is_correct, split_reply
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
        ("", "4", False),
        # The last number counts.
        ("First 85, then 84.", "85", False),
        ("First 84, then 85.", "85", True),
        ("There are 3 shapes.", "3", True),
        # Operators are no signs.
        ("47-38=9", "9", True),
        ("The result is 47-9.", "-9", False),
        ("The result is -9.", "-9", True),
        ("The result is -9", "9", False),
        ("The result is - 9.", "-9", False),
        ("0 + 0 = 0.", "0", True),
        ("The number is 007.", "7", True),
        ("The number is 1234.", "234", False),
        ("The tallest bar is A.", "A", True),
        ("A bar is tallest: B.", "B", True),
        ("I am Step3 nano, a small model.", "Step3 nano", True),
        ("I see a red star and a blue circle.", "a red star and a blue circle", True),
        ("I see a blue circle and a red star.", "a red star and a blue circle", False),
        ("Yesterday.", "Yes", False),
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


def test_an_answer_needs_its_thinking_and_its_turn_closed(tokenizer):
    def reply(text):
        return split_reply(tokenizer, tokenizer.encode(text, allow_special=True))

    assert reply("a\n</think>\nb<|EOT|>") == "b"
    assert reply("a\n</think>\nb<|EOT|>c") == "b"
    assert reply("a\n</think>\nb") is None
    assert reply("a<|EOT|>") is None
    assert reply("") is None


def test_unknown_suite_is_named(tmp_path):
    with pytest.raises(ValueError, match="suite 'best': must be one of gate, all"):
        evaluate_folder(tmp_path, "best", 1)


def test_other_seeds_ask_other_questions(renderer):
    asked = []

    def answer(prompts):
        asked.append([prompt.ids for prompt in prompts])
        return [[] for _ in prompts]

    for seed in (0, 0, 1):
        evaluate(renderer, answer, ["arithmetic-two-digit"], 3, seed)
    assert asked[0] == asked[1] != asked[2]


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
