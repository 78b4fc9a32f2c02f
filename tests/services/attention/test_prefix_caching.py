"""Cached prefixes and preemption change what is computed, never what comes out."""

from __future__ import annotations

import random

import pytest
import torch

from services.attention.sequence import Sampling, Sequence


def sequence(prompt, features_FH=None, tokens=12, priority=0):
    return Sequence(
        request_id="a",
        prompt_ids=prompt,
        sampling=Sampling(max_tokens=tokens),
        image_features=features_FH,
        priority=priority,
    )


@pytest.mark.parametrize("kernels", ["reference", "auto"])
@pytest.mark.parametrize("length", [47, 48, 49, 90])
def test_the_second_time_only_the_rest_is_computed(make_engine, complete, greedy, kernels, length):
    prompt = torch.randint(0, 480, (length,), generator=torch.Generator().manual_seed(1)).tolist()
    wanted = greedy(prompt, 12)
    engine = make_engine(kernels=kernels)
    first, second = sequence(prompt), sequence(prompt)
    assert complete(engine, [first]) == complete(engine, [second]) == [wanted]
    assert first.cached_tokens == 0
    assert second.cached_tokens == (length - 1) // 16 * 16
    assert engine.scheduler.pool.hit_tokens == second.cached_tokens


def test_the_next_turn_finds_the_answer_too(make_engine, complete, prompts, greedy):
    engine = make_engine()
    turn = sequence(prompts[1], tokens=30)
    [answer] = complete(engine, [turn])
    prompt = [*prompts[1], *answer, 5, 6, 7]
    following = sequence(prompt)
    assert complete(engine, [following]) == [greedy(prompt, 12)]
    # 40 + 30 tokens, of which the last was never read.
    assert following.cached_tokens == 69 // 16 * 16


def test_running_sequences_share_and_do_not_disturb_each_other(
    make_engine, complete, prompts, greedy
):
    engine = make_engine()
    common = prompts[5][:64]
    engine.add(first := sequence([*common, 1], tokens=40))
    engine.step()
    others = [sequence([*common, *tail]) for tail in ([2], [3, 4], prompts[1])]
    outputs = complete(engine, others)
    assert outputs == [greedy(other.prompt_ids, 12) for other in others]
    assert first.token_ids[65:] == greedy([*common, 1], 40)
    assert [other.cached_tokens for other in others] == [64, 64, 64]
    assert engine.scheduler.pool.num_used == 0


@pytest.mark.parametrize("max_step_tokens", [7, 64])
def test_another_picture_of_the_same_size_is_never_shared(
    make_engine, complete, checkpoint, greedy, max_step_tokens
):
    prompt = [1, 2, *[checkpoint.config.image_token_id] * 40, 3, 4, *range(10, 30)]
    noise = torch.Generator().manual_seed(3)
    a_FH, b_FH = torch.randn(40, 64, generator=noise), torch.randn(40, 64, generator=noise)
    wanted_a, wanted_b = greedy(prompt, 8, a_FH), greedy(prompt, 8, b_FH)
    assert wanted_a != wanted_b
    engine = make_engine(max_step_tokens=max_step_tokens)
    runs = [sequence(prompt, features_FH, tokens=8) for features_FH in (a_FH, b_FH, a_FH.clone())]
    assert [complete(engine, [run])[0] for run in runs] == [wanted_a, wanted_b, wanted_a]
    # The third resumes behind the picture.
    assert [run.cached_tokens for run in runs] == [0, 0, 48]


def test_a_picture_is_resumed_in_its_middle(make_engine, complete, checkpoint, greedy):
    image = checkpoint.config.image_token_id
    features_FH = torch.randn(60, 64, generator=torch.Generator().manual_seed(4))
    short = [1, *[image] * 30]
    long = [1, *[image] * 60, 9]
    engine = make_engine()
    complete(engine, [sequence(short, features_FH[:30])])
    resumed = sequence(long, features_FH)
    assert complete(engine, [resumed]) == [greedy(long, 12, features_FH)]
    assert resumed.cached_tokens == 16


def test_a_small_cache_under_pressure_gives_what_each_gives_alone(make_engine, greedy):
    """Shared beginnings, priorities, preemption and eviction at once, arrivals spread out."""
    dice = random.Random(11)
    beginnings = [[dice.randrange(480) for _ in range(length)] for length in (16, 40, 64)]
    waiting = [
        sequence(
            dice.choice(beginnings) + [dice.randrange(480) for _ in range(dice.randrange(1, 20))],
            tokens=dice.randrange(4, 40),
            priority=dice.randrange(-1, 2),
        )
        for _ in range(24)
    ]
    sequences = list(waiting)
    engine = make_engine(num_blocks=11, max_running=6, max_step_tokens=40)
    steps = 0
    while waiting or engine.has_work():
        if waiting and dice.random() < 0.4:
            engine.add(waiting.pop())
        engine.step()
        steps += 1
        assert steps < 5000
    for one in sequences:
        assert one.token_ids[len(one.prompt_ids) :] == greedy(
            one.prompt_ids, one.sampling.max_tokens
        )
    assert engine.scheduler.num_preemptions > 5
    assert engine.scheduler.pool.hit_tokens > 100
    assert engine.scheduler.pool.num_used == 0


def test_an_urgent_request_overtakes_and_the_overtaken_goes_on(make_engine, prompts, greedy):
    engine = make_engine(max_running=1)
    patient, urgent = sequence(prompts[1], tokens=30), sequence(prompts[3], priority=1)
    engine.add(patient)
    for _ in range(10):
        engine.step()
    engine.add(urgent)
    ended = []
    while engine.has_work():
        ended += [output.sequence for output in engine.step() if output.finish]
    assert ended == [urgent, patient]
    assert urgent.token_ids[33:] == greedy(prompts[3], 12)
    assert patient.token_ids[40:] == greedy(prompts[1], 30)
    # What it had read itself is no cached prompt.
    assert patient.cached_tokens == 0 and engine.scheduler.pool.hit_tokens == 48


def test_a_sequence_may_fill_the_whole_cache_while_others_wait(make_engine, complete, greedy):
    engine = make_engine(num_blocks=5)  # 64 tokens
    long, short = sequence([7] * 50, tokens=1000), sequence([8] * 3)
    tokens = complete(engine, [long, short])
    assert tokens == [greedy([7] * 50, 14), greedy([8] * 3, 12)]


def test_what_a_failed_step_wrote_is_not_shared(make_engine, local_ffn, complete, prompts, greedy):
    class Failing:
        def __getattr__(self, name):
            return getattr(local_ffn, name)

        def dispatch(self, step, layer, *rest):
            if layer == 3:
                raise ConnectionError
            return local_ffn.dispatch(step, layer, *rest)

    engine = make_engine(Failing())
    engine.add(sequence(prompts[5]))
    with pytest.raises(ConnectionError):
        engine.step()
    engine.fail_all()
    assert engine.scheduler.pool.num_cached == engine.scheduler.pool.num_used == 0
    engine.ffn = local_ffn
    assert complete(engine, [sequence(prompts[5])]) == [greedy(prompts[5], 12)]
