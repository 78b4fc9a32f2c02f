from __future__ import annotations

import random

import pytest

from services.attention.blocks import BlockPool
from services.attention.prefix import BlockHasher
from services.attention.scheduler import Scheduler
from services.attention.sequence import Sampling, Sequence


def scheduler(num_blocks=17, max_running=4, max_step_tokens=32):
    return Scheduler(
        BlockPool(num_blocks, BlockHasher(4, image_token_id=501)),
        max_running=max_running,
        max_step_tokens=max_step_tokens,
        context_tokens=64,
    )


def sequence(tokens, name="a", priority=0):
    """A prompt like no other's."""
    ids = [*name.encode(), *range(300, 300 + tokens)][:tokens]
    return Sequence(request_id=name, prompt_ids=ids, sampling=Sampling(), priority=priority)


def advance(s, chunks):
    """What the engine does after a step."""
    s.advance(chunks)
    for chunk in chunks:
        if chunk.sequence.num_pending == 0:
            chunk.sequence.token_ids.append(2)


def names(sequences):
    return [sequence.request_id for sequence in sequences]


def plan(chunks):
    return [(chunk.sequence.request_id, chunk.length) for chunk in chunks]


def test_decoding_goes_before_prompts_and_prompts_come_in_chunks():
    s = scheduler(max_step_tokens=8)
    s.add(sequence(3, "short"))
    s.add(sequence(20, "long"))
    chunks = s.schedule()
    assert plan(chunks) == [("short", 3), ("long", 5)]
    assert [chunk.samples for chunk in chunks] == [True, False]
    advance(s, chunks)
    s.add(sequence(4, "late"))
    chunks = s.schedule()
    assert plan(chunks) == [("short", 1), ("long", 7)]
    advance(s, chunks)
    chunks = s.schedule()
    assert plan(chunks) == [("short", 1), ("long", 7)]
    advance(s, chunks)
    assert plan(s.schedule()) == [("short", 1), ("long", 1), ("late", 4)]


def test_rows_limit_the_running():
    s = scheduler(max_running=2)
    for name in "abc":
        s.add(sequence(2, name))
    advance(s, s.schedule())
    assert len(s.running) == 2 and len(s.waiting) == 1
    s.remove(s.running[0])
    assert ("c", 2) in plan(s.schedule())


def test_the_youngest_gives_its_blocks_to_the_oldest():
    s = scheduler(num_blocks=5)  # four blocks of four tokens
    s.add(sequence(7, "old"))
    s.add(sequence(7, "young"))
    for _ in range(2):
        advance(s, s.schedule())
    assert s.pool.num_used == 4
    chunks = s.schedule()
    assert plan(chunks) == [("old", 1)]
    assert s.waiting[0].request_id == "young" and s.waiting[0].num_computed == 0
    assert s.num_preemptions == 1


def test_what_was_given_back_is_read_again_from_the_cache_as_far_as_it_is_left():
    s = scheduler(num_blocks=5)
    s.add(sequence(7, "old"))
    s.add(sequence(7, "young"))
    for _ in range(3):
        chunks = s.schedule()
        advance(s, chunks)
    assert plan(chunks) == [("old", 1)]
    for _ in range(3):  # "old" goes on alone; "young" would find room for no more than a part
        chunks = s.schedule()
        assert plan(chunks) == [("old", 1)]
        advance(s, chunks)
    s.remove(s.running[0])
    # Nine tokens known, the first block of four still in the cache.
    assert plan(s.schedule()) == [("young", 5)]
    assert s.pool.hit_tokens == 4
    assert s.running[0].cached_tokens == 0  # of the first time


def test_priority_goes_before_arrival():
    s = scheduler(max_running=1)
    for name, priority in (("a", 0), ("b", -1), ("c", 5), ("d", 0), ("e", 5)):
        s.add(sequence(2, name, priority))
    order = []
    while s.waiting or s.running:
        s.schedule()
        order.append(s.running[0].request_id)
        s.remove(s.running[0])
    assert order == ["c", "e", "a", "d", "b"]


def test_the_lowest_priority_gives_way_before_the_youngest():
    s = scheduler(num_blocks=5)
    s.add(sequence(7, "low", priority=1))
    s.add(sequence(7, "high", priority=2))
    for _ in range(2):
        advance(s, s.schedule())
    assert plan(s.schedule()) == [("high", 1)]
    assert names(s.waiting) == ["low"]


@pytest.mark.parametrize("scarce", [{"max_running": 2}, {"num_blocks": 5}])
def test_a_higher_priority_takes_the_place_of_the_last_ranked_lower_one(scarce):
    s = scheduler(**scarce)
    for name, priority in (("a", 1), ("b", 0)):
        s.add(sequence(6, name, priority))
    advance(s, s.schedule())
    s.add(sequence(6, "same", 0))
    s.add(sequence(6, "urgent", 7))
    chunks = s.schedule()
    assert plan(chunks) == [("a", 1), ("urgent", 6)]
    assert names(s.running) == ["urgent", "a"]
    # The one that gave way came before its equal.
    assert names(s.waiting) == ["b", "same"]


def test_nobody_gives_way_for_what_would_not_fit_even_then():
    s = scheduler(num_blocks=7)  # six blocks of four tokens
    for name, priority in (("low", 0), ("high", 9)):
        s.add(sequence(11, name, priority))
    advance(s, s.schedule())
    s.add(sequence(17, "middle", 5))
    assert plan(s.schedule()) == [("high", 1), ("low", 1)]
    assert s.num_preemptions == 0


@pytest.mark.parametrize("max_running", [1, 2])
def test_a_long_prompt_gives_way_to_a_higher_priority(max_running):
    s = scheduler(max_running=max_running, max_step_tokens=8)
    s.add(sequence(30, "low"))
    advance(s, s.schedule())
    s.add(sequence(10, "high", priority=1))
    chunks = s.schedule()
    assert plan(chunks) == [("high", 8)]
    advance(s, chunks)
    # With two rows "low" has kept its place, and gets what the first leaves.
    rest = [("low", 6)] if max_running == 2 else []
    assert plan(s.schedule()) == [("high", 2), *rest]


def test_there_are_never_more_tokens_than_the_step_takes():
    s = scheduler(max_running=4, max_step_tokens=3)
    for name in "abcd":
        s.add(sequence(2, name))
    seen = set()
    for _ in range(12):
        chunks = s.schedule()
        assert 0 < sum(chunk.length for chunk in chunks) <= 3
        seen |= {chunk.sequence.request_id for chunk in chunks}
        advance(s, chunks)
    assert seen == {"a", "b", "c"}  # three that decode fill every step
    s.remove(s.running[0])
    assert ("d", 1) in plan(s.schedule())


def test_tables_hold_the_blocks_of_each_row():
    s = scheduler()
    for name, tokens in (("a", 9), ("b", 3)):
        s.add(sequence(tokens, name))
    for chunk in s.schedule():
        row = s.block_tables[chunk.sequence.row]
        count = len(chunk.sequence.blocks)
        assert row[:count].tolist() == chunk.sequence.blocks
        assert not row[count:].any()


@pytest.mark.parametrize("state", ["waiting", "running"])
def test_remove_gives_everything_back(state):
    s = scheduler()
    mine = sequence(9)
    s.add(mine)
    if state == "running":
        s.schedule()
        assert s.pool.num_used == 3
    s.remove(mine)
    s.remove(mine)
    assert not s.has_work()
    assert s.pool.num_used == 0
    assert not s.block_tables.any()


@pytest.mark.parametrize("seed", range(6))
def test_whatever_comes_all_of_it_ends_and_no_step_is_wasted(seed):
    dice = random.Random(seed)
    s = scheduler(
        num_blocks=dice.randrange(17, 40),
        max_running=dice.randrange(1, 7),
        max_step_tokens=dice.randrange(1, 12),
    )
    coming = [sequence(dice.randrange(1, 40), f"{i:02}", dice.randrange(3)) for i in range(60)]
    wanted = {one: len(one.token_ids) + dice.randrange(1, 24) for one in coming}
    steps = 0
    while coming or s.has_work():
        if coming and dice.random() < 0.3:
            s.add(coming.pop())
        chunks = s.schedule()
        assert sum(chunk.length for chunk in chunks) <= s.max_step_tokens
        assert len(s.running) <= len(s.block_tables)
        assert bool(chunks) == s.has_work()
        written = [
            chunk.sequence.blocks[position // 4]
            for chunk in chunks
            for position in range(chunk.sequence.num_computed, len(chunk.sequence.token_ids))
        ]
        # What a step writes to is held by one sequence.
        held = [block for one in s.running for block in set(one.blocks)]
        assert all(held.count(block) == 1 for block in set(written))
        for chunk in chunks:
            blocks = chunk.sequence.blocks
            assert s.block_tables[chunk.sequence.row, : len(blocks)].tolist() == blocks
        advance(s, chunks)
        for one in list(s.running):
            if len(one.token_ids) >= wanted[one]:
                s.remove(one)
        steps += 1
        assert steps < 20_000
    assert s.pool.num_used == 0
