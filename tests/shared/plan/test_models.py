"""The counts of shared.plan.models against the model itself and against published totals."""

import pytest

from shared.model.presets import NANO, PRESETS, STEP3, parameter_counts
from shared.plan.catalog import DEEPSEEK_V3, MINIMAX_M1, MODELS, STEP_3
from shared.plan.models import from_config


@pytest.mark.parametrize("name", PRESETS)
def test_the_formulas_count_what_the_built_model_has(name: str) -> None:
    config = PRESETS[name]
    text, layers = config.text, config.text.num_hidden_layers
    norms = (2 * layers + 1) * text.hidden_size + layers * text.share_q_dim
    model, counted = from_config(config, name), parameter_counts(config)
    assert model.total_parameters + norms == counted.text
    assert model.active_parameters + norms == counted.active


def test_step3_matches_the_known_totals() -> None:
    assert STEP_3.attention_weights == 61 * (169_347_072 - 2048)
    assert STEP_3.ffn_weights == 56 * 49 * 110_100_480 + 5 * 396_361_728
    assert STEP_3.kv_elements(1) == 31_232
    assert STEP_3.sparsity == 4 / 49
    assert DEEPSEEK_V3.sparsity == 9 / 257


def test_a_model_without_moe_layers_is_dense() -> None:
    dense = next(model for model in MODELS if model.name == "Qwen3 32B")
    assert dense.sparsity == 1
    assert dense.ffn_flops == 2 * dense.ffn_weights


def test_a_window_bounds_what_is_cached_and_a_state_does_not_grow() -> None:
    llama = next(model for model in MODELS if model.name == "Llama 4 M")
    growth = llama.kv_bytes(20_000) - llama.kv_bytes(10_000)
    assert growth == 12 * 2 * 8 * 128 * 2 * 10_000  # the full layers alone, in BF16
    state = 70 * 64 * 128 * 128 * 8  # read and written in FP32
    assert MINIMAX_M1.kv_bytes(0) == state


def test_nano_derives_from_its_own_configuration() -> None:
    assert from_config(NANO, "nano").kv_elements(10) == 6 * 2 * 64 * 10
    assert from_config(STEP3, "step3").layers == 61
