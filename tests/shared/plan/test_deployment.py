import dataclasses
import functools

import pytest

from shared.errors import InvalidArgument
from shared.model.presets import STEP3
from shared.plan.catalog import STEP_3
from shared.plan.cost import best_deployment
from shared.plan.deployment import (
    DeploymentPlan,
    Workload,
    attention_times,
    ffn_times,
    plan_deployment,
)
from shared.plan.hardware import ACCELERATORS

H800, H20, L4 = (ACCELERATORS[name] for name in ("H800", "H20", "L4"))
US = 1e6


@functools.cache
def work(context: int = 4096) -> Workload:
    return Workload.of(STEP3, context=context, weights="fp8", kv="fp8")


def test_stage_times_of_the_reports_2a2f() -> None:
    """128 sequences of 4K on an attention card; 2048 tokens over 16 FFN cards."""
    attention = attention_times(work(), H800, 128)
    assert attention.kv_read / 61 * US == pytest.approx(80, abs=0.5)
    assert attention.weight_read / 61 * US == pytest.approx(20, abs=0.5)
    assert attention.linear_compute / 61 * US == pytest.approx(22, abs=0.5)
    ffn = ffn_times(work(), H800, 16, 2048)
    # A MoE layer is heavier than the average of all 61.
    moe = STEP_3.ffn[1]
    assert ffn.compute * moe.active_weights / STEP_3.ffn_flops * 2 / 56 * US == pytest.approx(
        57, abs=0.5
    )
    assert ffn.weight_read * moe.weights / STEP_3.ffn_weights / 56 * US == pytest.approx(
        101, abs=0.5
    )
    assert max(attention.total, ffn.total) / 61 < 272e-6


def check_limits(plan: DeploymentPlan, memory: float) -> None:
    for seconds in (plan.attention_s, plan.ffn_s, plan.wire_s):
        assert seconds <= plan.stage_budget_s * (1 + 1e-9)
    assert plan.attention_memory_bytes <= memory
    assert plan.attention_gpus % 8 == plan.ffn_gpus % 8 == 0


@pytest.mark.parametrize("context", [1024, 8192, 65536])
@pytest.mark.parametrize("names", [("H800", "H800"), ("H20", "H800"), ("L20", "L20")])
def test_a_plan_keeps_every_limit(context: int, names: tuple[str, str]) -> None:
    gpu, ffn_gpu = (ACCELERATORS[name] for name in names)
    check_limits(plan_deployment(work(context), gpu, ffn_gpu, 0.05), gpu.memory)


def test_one_instance_less_on_either_side_is_too_few() -> None:
    plan = plan_deployment(work(8192), H20, H800, 0.05)
    fewer = plan.micro_batch / (plan.attention_gpus - 8)
    held = work(8192).attention_held + 3 * fewer * work(8192).sequence_bytes
    assert attention_times(work(8192), H20, fewer).total > plan.stage_budget_s or held > H20.memory
    # Slow cards need more than memory asks for: the weights must be read within the stage.
    slow = plan_deployment(work(8192), ACCELERATORS["L20"], ACCELERATORS["L20"], 0.05)
    assert ffn_times(work(), ACCELERATORS["L20"], slow.ffn_gpus - 8, 0).total > 0.05 / 3


def test_the_cost_comes_near_the_bound_of_the_cost_table() -> None:
    plan = plan_deployment(work(8192), H20, H800, 0.05)
    bound = best_deployment(STEP_3, 8192).usd
    assert plan.usd_per_million_tokens is not None
    assert bound < plan.usd_per_million_tokens < 1.1 * bound


def test_a_card_without_price_gives_a_plan_without_cost() -> None:
    plan = plan_deployment(work(), ACCELERATORS["H100"], H800, 0.05)
    assert plan.usd_per_million_tokens is None


def test_longer_context_takes_more_attention_cards_and_no_more_ffn() -> None:
    short, long = (plan_deployment(work(n), H800, H800, 0.05) for n in (4096, 32768))
    assert long.attention_gpus > short.attention_gpus
    assert long.ffn_gpus == short.ffn_gpus


def test_bf16_cache_halves_what_a_memory_bound_card_serves() -> None:
    bf16 = dataclasses.replace(work(), kv="bf16")
    full, half = (plan_deployment(w, H800, H800, 0.05) for w in (work(), bf16))
    assert full.attention_bound == half.attention_bound == "memory"
    assert half.attention_gpus >= 2 * full.attention_gpus - 8


@pytest.mark.parametrize("tpot_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_named(tpot_s: float) -> None:
    with pytest.raises(InvalidArgument, match="tpot = ") as caught:
        plan_deployment(work(), H800, H800, tpot_s)
    assert caught.value.field == "tpot"


def test_cards_too_slow_are_named_with_the_limit() -> None:
    with pytest.raises(InvalidArgument, match=r"'L4'.*context = 60000.*KV reads") as caught:
        plan_deployment(work(60_000), L4, H800, 0.05)
    assert caught.value.field == "gpu"


@pytest.mark.parametrize("context", [0, 65537])
def test_a_context_that_the_model_lacks_is_named(context: int) -> None:
    with pytest.raises(InvalidArgument, match=f"context = {context}.*65536"):
        work(context)


def test_the_roofline_of_a_deployment() -> None:
    plan = plan_deployment(work(), H800, H800, 0.05)
    assert work().intensity == 128
    assert dataclasses.replace(work(), kv="bf16").intensity == 64
    assert round(plan.attention_roofline) == 591
    assert round(plan.minimum_sparsity, 3) == 0.058
