"""The C++ kernels against their plain references, over odd shapes."""

from __future__ import annotations

import pytest
import torch

from shared.ffn.backend import Routing
from shared.kernels import AttentionBatch, AttentionDims, AttentionWeights, FfnWeights, KvCache
from shared.kernels.build import BuildError, ensure_built
from shared.kernels.reference import ReferenceAttentionLayer, ReferenceFfnLayer, ReferenceHead
from shared.model.rope import rope_tables

try:
    ensure_built()
except BuildError as error:
    pytest.skip(f"no native kernels here: {error}", allow_module_level=True)

from shared.kernels.native.ops import (
    NativeAttentionLayer,
    NativeFfnLayer,
    NativeHead,
    set_threads,
)

BLOCK = 16
CONTEXT = 200
# hidden, heads, head_dim, query_rank, experts, top_k: heads in groups of 8, 4, 2 and 1; widths
# that fill no whole panel of 32.
SHAPES = [
    (64, 8, 32, 48, 8, 3),
    (80, 4, 16, 16, 5, 1),
    (48, 6, 48, 32, 3, 3),
    (32, 3, 16, 16, 2, 2),
]


@pytest.fixture(autouse=True, params=[1, 3], ids=["1-thread", "3-threads"])
def threads(request: pytest.FixtureRequest) -> None:
    set_threads([0] * request.param, 50)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape) * shape[-1] ** -0.5


def attention_weights(dims: AttentionDims, moe: bool) -> AttentionWeights:
    H, C, R, O = dims.hidden, dims.head_dim, dims.query_rank, dims.heads * dims.head_dim
    return AttentionWeights(
        input_norm_H=torch.rand(H) + 0.5,
        q_proj_RH=random(R, H),
        k_proj_CH=random(C, H),
        v_proj_CH=random(C, H),
        inter_norm_R=torch.rand(R) + 0.5,
        wq_OR=random(O, R) * 3,
        o_proj_HO=random(H, O),
        post_norm_H=torch.rand(H) + 0.5,
        gate_EH=random(dims.experts, H) * 3 if moe else None,
    )


def batch_of(lengths: list[tuple[int, int]]) -> AttentionBatch:
    """For each sequence (tokens in the cache already, new tokens); blocks in shuffled order."""
    per_sequence = -(-CONTEXT // BLOCK)
    blocks = torch.randperm(len(lengths) * per_sequence).to(torch.int32) + 1
    positions = [p for before, new in lengths for p in range(before, before + new)]
    sequences = [i for i, (_, new) in enumerate(lengths) for _ in range(new)]
    return AttentionBatch(
        positions_T=torch.tensor(positions, dtype=torch.int32),
        sequences_T=torch.tensor(sequences, dtype=torch.int32),
        block_tables_SM=blocks.view(len(lengths), per_sequence),
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "lengths",
    [[(0, 1)], [(0, 37)], [(15, 1)], [(16, 1)], [(31, 2), (0, 5), (150, 1), (99, 14)]],
    ids=str,
)
@pytest.mark.parametrize("moe", [True, False], ids=["moe", "dense"])
def test_attention_layer(shape: tuple[int, ...], lengths: list[tuple[int, int]], moe: bool) -> None:
    torch.manual_seed(0)
    hidden, heads, head_dim, rank, experts, top_k = shape
    dims = AttentionDims(
        hidden=hidden,
        heads=heads,
        head_dim=head_dim,
        query_rank=rank,
        experts=experts,
        top_k=top_k,
        norm_expert_weight=False,
        eps=1e-5,
    )
    weights = attention_weights(dims, moe)
    tables = rope_tables(torch.arange(CONTEXT), head_dim, 500000.0)
    batch = batch_of(lengths)
    tokens = batch.positions_T.shape[0]
    hidden_TH, ffn_TH = torch.randn(tokens, hidden), torch.randn(tokens, hidden)
    filled = KvCache(int(batch.block_tables_SM.max()) + 1, BLOCK, head_dim)
    filled.keys_BCP.normal_()
    filled.values_BPC.normal_()

    results = []
    for kind in (ReferenceAttentionLayer, NativeAttentionLayer):
        cache = KvCache(filled.keys_BCP.shape[0], BLOCK, head_dim)
        cache.keys_BCP.copy_(filled.keys_BCP)
        cache.values_BPC.copy_(filled.values_BPC)
        mine_TH = hidden_TH.clone()
        normed_TH, routing = kind(dims, weights, *tables)(mine_TH, ffn_TH, batch, cache)
        results.append((normed_TH, mine_TH, cache.keys_BCP, cache.values_BPC, routing))
    *wanted, wanted_routing = results[0]
    *found, found_routing = results[1]
    for right, ours in zip(wanted, found, strict=True):
        torch.testing.assert_close(ours, right, rtol=2e-5, atol=2e-5)
    assert (found_routing is None) == (wanted_routing is None) == (not moe)
    if found_routing is not None and wanted_routing is not None:
        assert torch.equal(found_routing.expert_ids_TK, wanted_routing.expert_ids_TK)
        torch.testing.assert_close(found_routing.weights_TK, wanted_routing.weights_TK)


def test_what_a_block_held_before_is_never_read() -> None:
    torch.manual_seed(0)
    dims = AttentionDims(
        hidden=32, heads=4, head_dim=16, query_rank=16, experts=0, top_k=1,
        norm_expert_weight=False, eps=1e-5,
    )  # fmt: skip
    layer = NativeAttentionLayer(
        dims, attention_weights(dims, False), *rope_tables(torch.arange(CONTEXT), 16, 1e4)
    )
    batch = batch_of([(0, 3)])
    hidden_TH = torch.randn(3, 32)
    results = []
    for leftover in (0.0, torch.nan):
        cache = KvCache(int(batch.block_tables_SM.max()) + 1, BLOCK, 16)
        cache.keys_BCP.fill_(leftover)
        cache.values_BPC.fill_(leftover)
        normed_TH, _ = layer(hidden_TH.clone(), None, batch, cache)
        results.append(normed_TH.clone())
    assert torch.equal(*results)


def ffn_weights(hidden: int, experts: int, first: int, width: int, shared: int) -> FfnWeights:
    return FfnWeights(
        first_expert=first,
        gate_EIH=random(experts, width, hidden) if experts else None,
        up_EIH=random(experts, width, hidden) if experts else None,
        down_EHI=random(experts, hidden, width) if experts else None,
        shared_gate_IH=random(shared, hidden) if shared else None,
        shared_up_IH=random(shared, hidden) if shared else None,
        shared_down_HI=random(hidden, shared) if shared else None,
    )


@pytest.mark.parametrize("tokens", [0, 1, 2, 7, 12, 13, 40])
@pytest.mark.parametrize(
    ("hidden", "experts", "first", "width", "shared"),
    [(64, 8, 0, 32, 32), (48, 3, 4, 20, 7), (80, 2, 0, 33, 0), (64, 0, 0, 0, 100)],
)
def test_ffn_layer(
    tokens: int, hidden: int, experts: int, first: int, width: int, shared: int
) -> None:
    torch.manual_seed(tokens)
    weights = ffn_weights(hidden, experts, first, width, shared)
    x_TH = torch.randn(tokens, hidden)
    routing = None
    if experts:
        # Ids of all experts of the layer: some belong to other shards.
        ids_TK = torch.stack([torch.randperm(8)[:3] for _ in range(tokens)] or [torch.zeros(3)])
        routing = Routing(ids_TK[:tokens].to(torch.int32).contiguous(), torch.rand(tokens, 3))
    outputs = []
    for kind in (ReferenceFfnLayer, NativeFfnLayer):
        out_TH = torch.full((tokens, hidden), torch.nan)
        kind(weights)(x_TH, routing, out_TH)
        outputs.append(out_TH)
    torch.testing.assert_close(outputs[1], outputs[0], rtol=2e-5, atol=2e-5)


def test_large_activations_do_not_overflow() -> None:
    weights = ffn_weights(64, 0, 0, 0, 32)
    x_TH = torch.randn(3, 64) * 1e4
    outputs = [torch.empty(3, 64) for _ in range(2)]
    ReferenceFfnLayer(weights)(x_TH, None, outputs[0])
    NativeFfnLayer(weights)(x_TH, None, outputs[1])
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1.0)


@pytest.mark.parametrize(
    ("hidden", "vocab", "rows"), [(64, 512, [0]), (48, 77, [3, 0, 4]), (32, 33, [])]
)
def test_head(hidden: int, vocab: int, rows: list[int]) -> None:
    torch.manual_seed(0)
    norm_H, weight_VH = torch.rand(hidden) + 0.5, random(vocab, hidden)
    x_TH, ffn_TH = torch.randn(5, hidden), torch.randn(5, hidden)
    rows_S = torch.tensor(rows, dtype=torch.int32)
    logits = [
        kind(norm_H, weight_VH, 1e-5)(x_TH, ffn_TH, rows_S) for kind in (ReferenceHead, NativeHead)
    ]
    assert logits[1].shape == (len(rows), vocab)
    torch.testing.assert_close(logits[1], logits[0], rtol=2e-5, atol=2e-5)


def test_a_row_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    layer = NativeFfnLayer(ffn_weights(64, 4, 0, 48, 48))
    x_TH = torch.randn(29, 64)
    ids_TK = torch.stack([torch.randperm(4)[:2] for _ in range(29)]).to(torch.int32)
    weights_TK = torch.rand(29, 2)
    whole_TH = torch.empty(29, 64)
    layer(x_TH, Routing(ids_TK, weights_TK), whole_TH)
    for token in (0, 11, 28):
        alone_TH = torch.empty(1, 64)
        row = slice(token, token + 1)
        layer(x_TH[row], Routing(ids_TK[row], weights_TK[row]), alone_TH)
        assert torch.equal(alone_TH[0], whole_TH[token])
