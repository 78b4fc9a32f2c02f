from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from shared.dataplane.layout import ALIGNMENT, HEADER_BYTES, Layout, dtype_name, dtype_of

LAYOUT = Layout(hidden=256, top_k=3, max_tokens=100)


@pytest.mark.parametrize("top_k", [0, 1, 3])
@pytest.mark.parametrize("hidden", [1, 256, 7168])
@pytest.mark.parametrize("max_tokens", [1, 100])
def test_sections_are_aligned_and_do_not_overlap(hidden, top_k, max_tokens):
    layout = Layout(hidden, top_k, max_tokens, combine_dtype=torch.bfloat16)
    dispatch, combine = layout.dispatch, layout.combine
    for offset in (*dispatch, combine.hidden, combine.slot_bytes):
        assert offset % ALIGNMENT == 0
    routing = max_tokens * top_k * 4
    assert dispatch.expert_ids >= HEADER_BYTES
    assert dispatch.expert_ids + routing <= dispatch.weights
    assert dispatch.weights + routing <= dispatch.hidden
    assert dispatch.hidden + max_tokens * hidden * 4 <= dispatch.slot_bytes
    assert combine.hidden + max_tokens * hidden * 2 <= combine.slot_bytes


@pytest.mark.parametrize(
    "change",
    [
        {"hidden": 257},
        {"top_k": 2},
        {"max_tokens": 101},
        {"slots": 7},
        {"dispatch_dtype": torch.bfloat16},
        {"combine_dtype": torch.bfloat16},
    ],
)
def test_the_hash_covers_every_dimension(change):
    assert replace(LAYOUT, **change).dims_hash != LAYOUT.dims_hash
    assert replace(LAYOUT).dims_hash == LAYOUT.dims_hash


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"hidden": 0}, "hidden = 0: must be from 1 to 1048576"),
        ({"top_k": 65}, "top_k = 65"),
        ({"max_tokens": -1}, "max_tokens = -1"),
        ({"slots": 0}, "slots = 0"),
        ({"dispatch_dtype": torch.int64}, r"dispatch_dtype = torch.int64: must be one of"),
        ({"max_tokens": 2**20, "hidden": 2**20}, "exceeds"),
    ],
)
def test_impossible_dimensions_are_refused(change, text):
    with pytest.raises(ValueError, match=text):
        replace(LAYOUT, **change)


def test_types_have_names():
    assert dtype_of(dtype_name(torch.bfloat16)) is torch.bfloat16
    with pytest.raises(ValueError, match="'int8': the data plane carries float32, bfloat16"):
        dtype_of("int8")
