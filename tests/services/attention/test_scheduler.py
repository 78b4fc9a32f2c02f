from __future__ import annotations

import pytest

from services.attention.blocks import BlockPool
from services.attention.scheduler import Scheduler
from services.attention.sequence import Sampling, Sequence


def scheduler(num_blocks=17, max_running=4, max_step_tokens=32):
    return Scheduler(
        BlockPool(num_blocks, 4),
        max_running=max_running,
        max_step_tokens=max_step_tokens,
        context_tokens=64,
    )


def sequence(tokens, name="a"):
    return Sequence(request_id=name, prompt_ids=[1] * tokens, sampling=Sampling())


def advance(chunks):
    """What the engine does after a step."""
    for chunk in chunks:
        chunk.sequence.num_computed += chunk.length
        if chunk.sequence.num_pending == 0:
            chunk.sequence.token_ids.append(2)


def plan(chunks):
    return [(chunk.sequence.request_id, chunk.length) for chunk in chunks]


def test_decoding_goes_before_prompts_and_prompts_come_in_chunks():
    s = scheduler(max_step_tokens=8)
    s.add(sequence(3, "short"))
    s.add(sequence(20, "long"))
    chunks = s.schedule()
    assert plan(chunks) == [("short", 3), ("long", 5)]
    assert [chunk.samples for chunk in chunks] == [True, False]
    advance(chunks)
    s.add(sequence(4, "late"))
    chunks = s.schedule()
    assert plan(chunks) == [("short", 1), ("long", 7)]
    advance(chunks)
    chunks = s.schedule()
    assert plan(chunks) == [("short", 1), ("long", 7)]
    advance(chunks)
    assert plan(s.schedule()) == [("short", 1), ("long", 1), ("late", 4)]


def test_rows_limit_the_running():
    s = scheduler(max_running=2)
    for name in "abc":
        s.add(sequence(2, name))
    advance(s.schedule())
    assert len(s.running) == 2 and len(s.waiting) == 1
    s.remove(s.running[0])
    assert ("c", 2) in plan(s.schedule())


def test_the_youngest_gives_its_blocks_to_the_oldest():
    s = scheduler(num_blocks=5)  # four blocks of four tokens
    s.add(sequence(7, "old"))
    s.add(sequence(7, "young"))
    for _ in range(2):
        advance(s.schedule())
    assert s.pool.num_used == 4
    chunks = s.schedule()
    assert plan(chunks) == [("old", 1)]
    assert s.waiting[0].request_id == "young" and s.waiting[0].num_computed == 0
    assert s.num_preemptions == 1


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


def test_no_block_is_handed_out_twice():
    pool = BlockPool(9, 4)
    first, second = sequence(1, "a"), sequence(1, "b")
    assert pool.grow(first, 16) and pool.grow(second, 13)
    assert not pool.grow(first, 17)
    assert len({*first.blocks, *second.blocks}) == 8
    assert 0 not in {*first.blocks, *second.blocks}
    pool.release(first)
    assert pool.num_used == 4 and pool.grow(second, 32)
