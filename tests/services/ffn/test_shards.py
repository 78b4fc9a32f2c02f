"""Any number of FFN shards gives what the undivided FFN gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shared.ffn.backend import Routing
from shared.ffn.weights import Shard, load_ffn_weights
from shared.kernels.reference import ReferenceFfnLayer
from shared.model.checkpoint import Checkpoint
from shared.model.config import ConfigError

TINY = Path(__file__).parents[2] / "data" / "step3-tiny"


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint.open(TINY)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("layer", [0, 2, 5])
def test_partial_sums_add_up(checkpoint: Checkpoint, count: int, layer: int) -> None:
    torch.manual_seed(layer)
    text = checkpoint.config.text
    x_TH = torch.randn(9, text.hidden_size)
    routing = None
    if text.is_moe(layer):
        ids_TK = torch.stack([torch.randperm(8)[:3] for _ in range(9)]).to(torch.int32)
        routing = Routing(ids_TK, torch.rand(9, 3))

    def part(shard: Shard) -> torch.Tensor:
        out_TH = torch.empty_like(x_TH)
        ReferenceFfnLayer(load_ffn_weights(checkpoint, shard)[layer])(x_TH, routing, out_TH)
        return out_TH

    total_TH = sum(part(Shard(rank, count)) for rank in range(count))
    torch.testing.assert_close(total_TH, part(Shard(0, 1)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("total", [8, 7, 1000])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_parts_are_whole_and_even(total: int, count: int) -> None:
    parts = [Shard(rank, count).part(total) for rank in range(count)]
    covered = [i for part in parts for i in range(part.start, part.stop)]
    assert covered == list(range(total))
    lengths = [part.stop - part.start for part in parts]
    assert max(lengths) - min(lengths) <= 1


def test_more_shards_than_experts_are_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(ConfigError, match=r"ffn shards = 9: must be at most .*\(8\)"):
        load_ffn_weights(checkpoint, Shard(0, 9))


def test_a_rank_outside_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"ffn shard 2: must be in 0\.\.1"):
        Shard(2, 2)
