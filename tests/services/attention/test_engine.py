from __future__ import annotations

import pytest
import torch

from services.attention.sequence import Finish, Sampling, Sequence


@pytest.fixture(scope="module")
def wanted(prompts, greedy):
    return [greedy(prompt, 12) for prompt in prompts]


@pytest.mark.parametrize("micro_batches", [1, 2, 3])
@pytest.mark.parametrize("max_step_tokens", [8, 64])
@pytest.mark.parametrize("kernels", ["reference", "auto"])
def test_equals_the_model_in_one_process(
    make_engine, make_sequences, complete, prompts, wanted, micro_batches, max_step_tokens, kernels
):
    engine = make_engine(
        kernels=kernels, micro_batches=micro_batches, max_step_tokens=max_step_tokens
    )
    assert complete(engine, make_sequences(prompts)) == wanted
    assert engine.scheduler.pool.num_used == 0


def test_too_few_blocks_only_cost_time(make_engine, make_sequences, complete, prompts, wanted):
    # The longest sequence alone fills all but one of these.
    engine = make_engine(num_blocks=9)
    assert complete(engine, make_sequences(prompts)) == wanted
    assert engine.scheduler.num_preemptions > 0
    assert engine.scheduler.pool.num_used == 0


def test_late_arrivals_change_nothing(make_engine, make_sequences, prompts, wanted):
    engine = make_engine(max_running=3)
    sequences = make_sequences(prompts)
    for sequence in sequences:
        engine.add(sequence)
        engine.step()
        engine.step()
    while engine.has_work():
        engine.step()
    assert [s.token_ids[len(s.prompt_ids) :] for s in sequences] == wanted


@pytest.mark.parametrize("max_step_tokens", [5, 64])
def test_image_features_replace_embeddings(
    make_engine, complete, greedy, checkpoint, max_step_tokens
):
    image_token = checkpoint.config.image_token_id
    prompt = [1, 2, *[image_token] * 9, 3, image_token, image_token, 4, 5]
    features_FH = torch.randn(11, 64, generator=torch.Generator().manual_seed(3))
    sequence = Sequence(
        request_id="image",
        prompt_ids=prompt,
        sampling=Sampling(max_tokens=8),
        image_features=features_FH,
    )
    engine = make_engine(max_step_tokens=max_step_tokens)
    assert complete(engine, [sequence]) == [greedy(prompt, 8, features_FH)]
    assert greedy(prompt, 8, features_FH) != greedy(prompt, 8, -features_FH)


def test_stop_token_ends_a_sequence_and_is_kept(make_engine, prompts, wanted):
    stop = wanted[0][3]
    expected = wanted[0][: wanted[0].index(stop) + 1]
    sequence = Sequence(
        request_id="stop",
        prompt_ids=prompts[0],
        sampling=Sampling(max_tokens=12, stop_token_ids=frozenset({stop})),
    )
    engine = make_engine()
    engine.add(sequence)
    outputs = []
    while engine.has_work():
        outputs += engine.step()
    assert [output.token_id for output in outputs] == expected
    assert [output.finish for output in outputs] == [None] * (len(expected) - 1) + [Finish.STOP]


def test_the_context_ends_a_sequence(make_engine, make_sequences, complete):
    engine = make_engine(num_blocks=3)  # two blocks of 16 tokens
    (sequence,) = make_sequences([[1] * 20], max_tokens=1000)
    (tokens,) = complete(engine, [sequence])
    assert len(tokens) == engine.context_tokens - 20 == 12


def test_abort_frees_everything(make_engine, make_sequences, prompts):
    engine = make_engine(max_running=2)
    sequences = make_sequences(prompts[:4], max_tokens=50)
    for sequence in sequences:
        engine.add(sequence)
    engine.step()
    for sequence in sequences:
        sequence.aborted = True
    outputs = engine.step()
    assert {output.finish for output in outputs} == {Finish.ABORTED}
    assert len(outputs) == 4
    assert not engine.has_work()
    assert engine.scheduler.pool.num_used == 0


def test_seeded_sampling_does_not_depend_on_the_batch(
    make_engine, make_sequences, complete, prompts
):
    def sequences(some):
        return make_sequences(some, temperature=1.0, top_p=0.95, seed=11)

    together = complete(make_engine(), sequences(prompts))
    alone = [complete(make_engine(), sequences([prompt]))[0] for prompt in prompts]
    assert together == alone
    other = complete(make_engine(), make_sequences(prompts, temperature=1.0, seed=12))
    assert together != other
