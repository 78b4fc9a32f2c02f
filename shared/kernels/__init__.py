"""The hot operations of a decode step: a plain reference each, and fast twins."""

from shared.kernels.api import (
    AttentionBatch,
    AttentionDims,
    AttentionLayer,
    AttentionWeights,
    FfnLayer,
    FfnWeights,
    Head,
    KvCache,
)
from shared.kernels.registry import Kernels, select_kernels

__all__ = [
    "AttentionBatch",
    "AttentionDims",
    "AttentionLayer",
    "AttentionWeights",
    "FfnLayer",
    "FfnWeights",
    "Head",
    "Kernels",
    "KvCache",
    "select_kernels",
]
