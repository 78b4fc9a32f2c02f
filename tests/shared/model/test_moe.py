import pytest
import torch

from shared.model.mlp import swiglu
from shared.model.moe import MoE, can_group, experts_grouped, experts_loop, router
from shared.model.presets import TINY

EXPERTS, TOP_K, HIDDEN, INTERMEDIATE = 8, 3, 32, 16


def experts_dense(x, weights_TK, ids_TK, gate, up, down):
    """Every expert on every token, then a weighted sum in which most weights are zero."""
    all_TEH = torch.stack([swiglu(x, gate[e], up[e], down[e]) for e in range(len(gate))], dim=1)
    weights_TE = torch.zeros(len(x), len(gate)).scatter(1, ids_TK, weights_TK)
    return torch.einsum("te,teh->th", weights_TE, all_TEH)


def operands(tokens, logits=None, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    gate, up = (normal(EXPERTS, INTERMEDIATE, HIDDEN) * HIDDEN**-0.5 for _ in range(2))
    down = normal(EXPERTS, HIDDEN, INTERMEDIATE) * INTERMEDIATE**-0.5
    logits = normal(tokens, EXPERTS) if logits is None else logits
    return normal(tokens, HIDDEN), logits, gate, up, down


def run(function, x, logits, gate, up, down):
    """Output and the gradients of all operands, router logits included."""
    leaves = [t.clone().requires_grad_() for t in (x, logits, gate, up, down)]
    weights_TK, ids_TK = router(leaves[1], TOP_K)
    out = function(leaves[0], weights_TK, ids_TK, *leaves[2:])
    # An expanded incoming gradient, as a plain sum makes it.
    out.sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def only_two_experts(tokens):
    logits = torch.full((tokens, EXPERTS), -20.0)
    logits[:, 5], logits[:, 0], logits[:, 7] = 3.0, 2.0, 1.0
    return logits


@pytest.mark.parametrize("tokens", [1, 2, 37])
@pytest.mark.parametrize("uneven", [False, True])
def test_grouped_loop_and_dense_agree(tokens, uneven):
    inputs = operands(tokens, only_two_experts(tokens) if uneven else None)
    assert can_group(inputs[0], inputs[2])
    wanted = run(experts_dense, *inputs)
    for function in (experts_loop, experts_grouped):
        for got, want in zip(run(function, *inputs), wanted, strict=True):
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_grouped_and_loop_agree_in_bfloat16():
    x, logits, *weights = (tensor.bfloat16() for tensor in operands(20))
    routing = router(logits, TOP_K)
    got = experts_grouped(x, *routing, *weights)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, experts_loop(x, *routing, *weights), atol=0.05, rtol=0.05)


def test_shapes_that_grouped_mm_refuses_go_through_the_loop():
    x, gate = torch.zeros(4, 6), torch.zeros(2, 8, 6)
    assert not can_group(x, gate)
    assert not can_group(torch.zeros(0, 32), torch.zeros(2, 16, 32))
    assert not can_group(torch.zeros(4, 32).double(), torch.zeros(2, 16, 32).double())


def test_module_takes_no_tokens_and_any_leading_shape():
    moe = MoE(TINY.text)
    assert moe(torch.zeros(2, 0, 64)).shape == (2, 0, 64)
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(moe(x).view(10, 64), moe(x.view(10, 64)))


def test_module_under_autocast():
    moe = MoE(TINY.text)
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        out = moe(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), moe(x), atol=0.05, rtol=0.05)


def test_router_keeps_probabilities_of_all_experts():
    logits = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.3]]))
    weights, ids = router(logits, 2)
    assert ids.tolist() == [[1, 3]]
    torch.testing.assert_close(weights, torch.tensor([[0.4, 0.3]]))
    torch.testing.assert_close(
        router(logits, 2, renormalize=True)[0], torch.tensor([[4 / 7, 3 / 7]])
    )


def test_router_is_float32_for_bfloat16_logits():
    assert router(torch.zeros(1, 4, dtype=torch.bfloat16), 2)[0].dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("tokens", [1, 37])
def test_grouped_and_loop_agree_on_cuda(tokens):
    inputs = [tensor.bfloat16().cuda() for tensor in operands(tokens)]
    assert can_group(inputs[0], inputs[2])
    wanted = run(experts_loop, *inputs)
    for got, want in zip(run(experts_grouped, *inputs), wanted, strict=True):
        torch.testing.assert_close(got, want, atol=0.1, rtol=0.1)
