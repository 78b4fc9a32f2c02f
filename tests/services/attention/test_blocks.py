"""The pool's books: who holds which block, what is found again, what is forgotten first."""

from __future__ import annotations

import random

import pytest
import torch

from services.attention.blocks import BlockPool
from services.attention.prefix import BlockHasher
from services.attention.sequence import Sampling, Sequence

IMAGE = 501


def pool_of(num_blocks):
    return BlockPool(num_blocks, BlockHasher(4, IMAGE))


def sequence(ids, features_FH=None):
    return Sequence(
        request_id="a", prompt_ids=list(ids), sampling=Sampling(), image_features=features_FH
    )


def computed(pool, ids, features_FH=None):
    """A sequence whose tokens are all in the cache."""
    made = sequence(ids, features_FH)
    assert pool.admit(made)
    made.num_computed = len(made.token_ids)
    pool.publish(made)
    return made


def found(pool, ids, features_FH=None):
    """Tokens that a sequence finds in the cache; it holds nothing afterwards."""
    other = sequence(ids, features_FH)
    assert pool.admit(other)
    tokens = other.num_computed
    pool.release(other)
    return tokens


def test_no_block_is_handed_out_twice():
    pool = pool_of(9)
    first, second = sequence([1]), sequence([2])
    assert pool.grow(first, 16) and pool.grow(second, 13)
    assert not pool.grow(first, 17)
    assert len({*first.blocks, *second.blocks}) == 8
    assert 0 not in {*first.blocks, *second.blocks}
    pool.release(first)
    assert pool.num_used == 4 and pool.grow(second, 32)


def test_full_blocks_are_shared_while_held_and_after():
    pool = pool_of(17)
    first = computed(pool, range(10))
    second = sequence([*range(8), 77, 78])
    assert pool.admit(second)
    assert second.num_computed == 8
    assert second.blocks[:2] == first.blocks[:2] and second.blocks[2] != first.blocks[2]
    assert pool.num_used == 4
    pool.release(first)
    assert pool.num_used == 3
    pool.release(second)
    assert (pool.num_used, pool.num_cached) == (0, 2)
    assert found(pool, range(10)) == 8
    assert pool.hit_tokens == 16


@pytest.mark.parametrize(("tokens", "hit"), [(3, 0), (4, 0), (5, 4), (8, 4), (9, 8), (11, 8)])
def test_the_last_token_is_always_computed(tokens, hit):
    pool = pool_of(17)
    computed(pool, range(tokens))
    assert found(pool, range(tokens)) == hit


def test_a_block_is_found_behind_its_own_beginning_only():
    pool = pool_of(17)
    pool.release(computed(pool, [1, 1, 1, 1, 2, 2, 2, 2, 3]))
    assert found(pool, [2, 2, 2, 2, 3]) == 0
    assert found(pool, [9, 1, 1, 1, 2, 2, 2, 2, 3]) == 0
    assert found(pool, [1, 1, 1, 1, 2, 2, 2, 9, 3]) == 4


def test_blocks_that_are_not_full_or_not_computed_are_not_found():
    pool = pool_of(17)
    running = sequence(range(10))
    assert pool.admit(running)
    running.num_computed = 7
    pool.publish(running)
    assert found(pool, range(10)) == 4
    pool.release(running)
    assert pool.num_cached == 1


def test_other_pictures_make_other_blocks():
    pool = pool_of(33)
    ids = [1, 2, IMAGE, IMAGE, IMAGE, 3, 4, 5, IMAGE, 6, 7, 8, 9]
    a_FH = torch.arange(16.0).reshape(4, 4)
    pool.release(computed(pool, ids, a_FH))
    assert found(pool, ids, a_FH.clone()) == 12
    assert found(pool, ids, a_FH + 1) == 0
    second_picture_FH = a_FH.clone()
    second_picture_FH[3, 3] += 1e-3
    assert found(pool, ids, second_picture_FH) == 8
    third_row_FH = a_FH.clone()
    third_row_FH[2, 0] += 1
    assert found(pool, ids, third_row_FH) == 4


def test_names_do_not_depend_on_how_often_they_were_asked_for():
    hasher = BlockHasher(4, IMAGE)
    ids = [IMAGE, 2, IMAGE, IMAGE, 4, 5, 6, IMAGE, 8, 9, IMAGE, 1]
    features_FH = torch.arange(10.0).reshape(5, 2)
    once, stepwise = sequence(ids, features_FH), sequence(ids, features_FH)
    hasher.extend(once, 3)
    for count in (1, 2, 2, 3):
        hasher.extend(stepwise, count)
    assert once.block_keys == stepwise.block_keys and len(set(once.block_keys)) == 3


def test_room_is_made_by_forgetting_what_was_released_first_and_last_blocks_first():
    pool = pool_of(7)  # six blocks
    pool.release(computed(pool, range(100, 112)))
    pool.release(computed(pool, range(200, 212)))
    assert pool.num_cached == 6
    big = sequence(range(8))
    assert pool.admit(big) and big.num_computed == 0
    assert pool.num_cached == 4
    pool.release(big)
    assert found(pool, range(200, 213)) == 12
    assert found(pool, range(100, 113)) == 4


def test_what_is_held_is_never_forgotten():
    pool = pool_of(4)
    held = computed(pool, range(12))
    other = sequence([*range(8), 50, 51, 52, 53, 54])
    assert not pool.admit(other)
    assert not other.blocks and other.num_computed == 0
    assert pool.num_used == 3 and not pool.grow(held, 13)


def test_found_blocks_are_not_counted_as_room_too():
    pool = pool_of(4)
    pool.release(computed(pool, range(8)))
    # Two idle blocks are found, so that one is left for the two that it needs besides.
    assert not pool.admit(sequence(range(13)))
    assert pool.num_used == 0 and pool.num_cached == 2
    assert pool.admit(sequence(range(12)))


def test_the_books_balance_over_a_long_random_run():
    dice = random.Random(5)
    pool = pool_of(40)
    contents = {}  # what each block holds, as the caches of a model would
    running = []
    for _ in range(3000):
        if running and dice.random() < 0.45:
            pool.release(running.pop(dice.randrange(len(running))))
        else:
            ids = [dice.randrange(2) for _ in range(dice.randrange(1, 30))]
            made = sequence(ids)
            if pool.admit(made):
                for i in range(made.num_computed // 4):
                    assert contents[made.blocks[i]] == ids[: 4 * i + 4]
                for i in range(made.num_computed // 4, len(made.blocks)):
                    contents[made.blocks[i]] = ids[: 4 * i + 4]
                made.num_computed = dice.randrange(made.num_computed, len(ids) + 1)
                pool.publish(made)
                running.append(made)
        held = [block for one in running for block in one.blocks]
        assert pool.num_used == len(set(held))
        assert 0 not in held
    assert pool.hit_tokens > 1000
    for one in running:
        pool.release(one)
    assert pool.num_used == 0
    assert pool.grow(sequence([1]), 39 * 4)
