from __future__ import annotations

from collections import Counter

import torch

from services.attention.sampler import sample
from services.attention.sequence import Sampling, Sequence


def sequence(**sampling):
    return Sequence(request_id="s", prompt_ids=[1], sampling=Sampling(**sampling))


def draws(logits, n=2000, **sampling):
    """How often each token comes, from one generator."""
    one = sequence(**{"temperature": 1.0, "seed": 5, **sampling})
    logits_SV = torch.tensor([logits])
    return Counter(sample(logits_SV, [one])[0] for _ in range(n))


LOGITS = torch.log(torch.tensor([0.1, 0.4, 0.2, 0.3])).tolist()


def test_temperature_zero_is_the_largest():
    logits_SV = torch.tensor([[0.0, 2.0, 1.0], [5.0, 2.0, 1.0]])
    assert sample(logits_SV, [sequence(), sequence()]) == [1, 0]


def test_frequencies_follow_the_distribution():
    counts = draws(LOGITS)
    for token, p in enumerate((0.1, 0.4, 0.2, 0.3)):
        assert abs(counts[token] / 2000 - p) < 0.04


def test_temperature_sharpens():
    assert draws(LOGITS, temperature=0.25)[1] > 1300


def test_top_k():
    assert set(draws(LOGITS, top_k=2)) == {1, 3}
    assert set(draws(LOGITS, top_k=1)) == {1}
    assert set(draws(LOGITS, top_k=99)) == {0, 1, 2, 3}


def test_top_p_keeps_the_token_that_reaches_it():
    assert set(draws(LOGITS, top_p=0.39)) == {1}
    assert set(draws(LOGITS, top_p=0.41)) == {1, 3}
    assert set(draws(LOGITS, top_p=0.75)) == {1, 3, 2}


def test_top_p_counts_what_top_k_left():
    # Of {1: 4/7, 3: 3/7} the first alone reaches one half.
    assert set(draws(LOGITS, top_k=2, top_p=0.5)) == {1}


def test_min_p_is_relative_to_the_largest():
    assert set(draws(LOGITS, min_p=0.6)) == {1, 3}


def test_equal_seeds_draw_equal_tokens():
    logits_SV = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    runs = []
    for seed in (1, 1, 2):
        one = sequence(temperature=1.0, seed=seed)
        runs.append([sample(logits_SV, [one])[0] for _ in range(20)])
    assert runs[0] == runs[1] != runs[2]


def test_infinite_logits_do_not_break_the_draw():
    assert set(draws([float("-inf"), 1.0, float("-inf"), float("-inf")], n=50)) == {1}
