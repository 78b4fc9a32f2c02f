"""The models that the Step-3 report compares, by their dimensions.

Step-3's come from its preset, the others' from the config.json that their vendors published. KV is
8-bit but for the full-attention layers of the hybrid models, which the report counts in BF16.
"""

from __future__ import annotations

from shared.model.presets import STEP3
from shared.plan.models import DecodeModel, FfnLayers, from_config, gqa, lightning, mla

STEP_3 = from_config(STEP3, "Step-3")

DEEPSEEK_V3 = DecodeModel(
    name="DSv3",
    hidden=7168,
    vocab=129280,
    attention=(mla(layers=61, hidden=7168, heads=128),),
    ffn=(
        FfnLayers(layers=3, hidden=7168, shared_width=18432),
        FfnLayers(
            layers=58,
            hidden=7168,
            shared_width=2048,
            experts=256,
            top_k=8,
            width=2048,
            shared_experts=1,
        ),
    ),
)

KIMI_K2 = DecodeModel(
    name="Kimi K2",
    hidden=7168,
    vocab=163840,
    attention=(mla(layers=61, hidden=7168, heads=64),),
    ffn=(
        FfnLayers(layers=1, hidden=7168, shared_width=18432),
        FfnLayers(
            layers=60,
            hidden=7168,
            shared_width=2048,
            experts=384,
            top_k=8,
            width=2048,
            shared_experts=1,
        ),
    ),
)

QWEN3_MOE = DecodeModel(
    name="Qwen3 MoE",
    hidden=4096,
    vocab=151936,
    attention=(gqa(layers=94, hidden=4096, heads=64, kv_heads=4),),
    ffn=(FfnLayers(layers=94, hidden=4096, shared_width=0, experts=128, top_k=8, width=1536),),
)

QWEN3_32B = DecodeModel(
    name="Qwen3 32B",
    hidden=5120,
    vocab=151936,
    attention=(gqa(layers=64, hidden=5120, heads=64, kv_heads=8),),
    ffn=(FfnLayers(layers=64, hidden=5120, shared_width=25600),),
)

LLAMA4_MAVERICK = DecodeModel(
    name="Llama 4 M",
    hidden=5120,
    vocab=202048,
    # Three layers of four see a chunk of 8192 tokens; the fourth sees all.
    attention=(
        gqa(layers=36, hidden=5120, heads=40, kv_heads=8, window=8192),
        gqa(layers=12, hidden=5120, heads=40, kv_heads=8, kv_bytes=2),
    ),
    ffn=(
        FfnLayers(layers=24, hidden=5120, shared_width=16384),
        FfnLayers(
            layers=24,
            hidden=5120,
            shared_width=8192,
            experts=128,
            top_k=1,
            width=8192,
            shared_experts=1,
        ),
    ),
)

MINIMAX_M1 = DecodeModel(
    name="MM M1",
    hidden=6144,
    vocab=200064,
    attention=(
        lightning(layers=70, hidden=6144, heads=64),
        gqa(layers=10, hidden=6144, heads=64, kv_heads=8, kv_bytes=2),
    ),
    ffn=(FfnLayers(layers=80, hidden=6144, shared_width=0, experts=32, top_k=2, width=9216),),
)

ERNIE_45 = DecodeModel(
    name="ERNIE 4.5",
    hidden=8192,
    vocab=103424,
    attention=(gqa(layers=54, hidden=8192, heads=64, kv_heads=8),),
    ffn=(
        FfnLayers(layers=3, hidden=8192, shared_width=28672),
        FfnLayers(layers=51, hidden=8192, shared_width=0, experts=64, top_k=8, width=3584),
    ),
)

PANGU_PRO = DecodeModel(
    name="Pangu Pro",
    hidden=5120,
    vocab=153376,
    attention=(gqa(layers=48, hidden=5120, heads=40, kv_heads=8),),
    ffn=(
        FfnLayers(
            layers=48,
            hidden=5120,
            shared_width=4 * 1344,
            experts=64,
            top_k=8,
            width=1344,
            shared_experts=4,
        ),
    ),
)

# In the order of the report's tables.
MODELS: tuple[DecodeModel, ...] = (
    DEEPSEEK_V3,
    KIMI_K2,
    QWEN3_MOE,
    QWEN3_32B,
    LLAMA4_MAVERICK,
    MINIMAX_M1,
    ERNIE_45,
    PANGU_PRO,
    STEP_3,
)
