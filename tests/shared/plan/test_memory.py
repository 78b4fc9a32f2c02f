import pytest

from shared.errors import InvalidArgument
from shared.model.presets import STEP3
from shared.plan.hardware import ACCELERATORS, Dtype
from shared.plan.memory import CardPlan, kv_bytes_per_token, pool_plan, weight_bytes

L40S = ACCELERATORS["L40S"]


def pool(kv_tokens: int) -> dict[str, CardPlan]:
    plans = pool_plan(STEP3, L40S, 8, weights="int8", kv="bf16", kv_tokens=kv_tokens)
    return {plan.layout: plan for plan in plans}


@pytest.mark.parametrize(
    ("dtype", "published_gb"),
    [("bf16", "641.9"), ("fp8", "327.6")],  # the sizes of the released repositories
)
def test_weights_have_the_released_sizes(dtype: Dtype, published_gb: str) -> None:
    assert f"{weight_bytes(STEP3, dtype).total / 1e9:.1f}" == published_gb


def test_int8_leaves_attention_and_router_in_bf16() -> None:
    int8, bf16 = weight_bytes(STEP3, "int8"), weight_bytes(STEP3, "bf16")
    assert (int8.attention, int8.router) == (bf16.attention, bf16.router)
    assert int8.vision == bf16.vision / 2
    # One FP32 scale for each row adds less than a thousandth.
    assert 0.5 < int8.ffn / bf16.ffn < 0.5005


def test_a_cached_token_is_one_key_and_one_value_head_in_each_layer() -> None:
    assert kv_bytes_per_token(STEP3, "bf16") == 61 * 512 * 2
    assert kv_bytes_per_token(STEP3, "fp8") == 61 * 512


def test_the_release_claim_holds_on_paper_and_in_no_practical_layout() -> None:
    plans = pool(800_000)
    assert {name: plan.verdict for name, plan in plans.items()} == {
        "all split": "fits on paper only",
        "heads split, KV split": "does not fit",
        "tensor parallel": "does not fit",
        "data parallel, o_proj split": "does not fit",
        "data parallel": "does not fit",
    }
    best = plans["all split"]
    total = weight_bytes(STEP3, "int8").total + 7 * best.router + 800_000 * 62_464
    assert 8 * (L40S.memory - best.left) == pytest.approx(total)
    assert best.left / 1e9 == pytest.approx(0.28, abs=0.005)


def test_the_most_tokens_that_fit_are_the_most() -> None:
    most = pool(0)["all split"].kv_tokens_max
    assert pool(most)["all split"].left >= 0
    assert pool(most + 8)["all split"].left < 0
    assert pool(0)["data parallel"].kv_tokens_max == 0  # the weights alone are too many


def test_tensor_parallel_keeps_the_cache_on_every_card() -> None:
    plans = pool(800_000)
    assert plans["tensor parallel"].kv == 8 * plans["all split"].kv


@pytest.mark.parametrize(("field", "gpus", "tokens"), [("gpus", 0, 1), ("kv-tokens", 8, -1)])
def test_a_number_out_of_range_is_named(field: str, gpus: int, tokens: int) -> None:
    with pytest.raises(InvalidArgument, match=f"{field} = {min(gpus, tokens)}") as caught:
        pool_plan(STEP3, L40S, gpus, weights="int8", kv="bf16", kv_tokens=tokens)
    assert caught.value.field == field
