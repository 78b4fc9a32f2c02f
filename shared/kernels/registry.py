"""Which implementation runs each operation: chosen once at start, and shown in the server info."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Literal

from shared.errors import FailedPrecondition
from shared.kernels.api import AttentionDims, AttentionLayer, FfnLayer, Head
from shared.kernels.build import BuildError
from shared.kernels.native import ops
from shared.kernels.reference import ReferenceAttentionLayer, ReferenceFfnLayer, ReferenceHead
from shared.kernels.threads import cores_for, pinned

# An idle thread of the native pool spins this long before it sleeps: long enough to bridge the gaps
# within a layer, short enough to leave the core to the process on the other side.
_SPIN_US = 10


@dataclass(frozen=True, slots=True)
class Kernels:
    name: str
    # Why this one, in words: for logs and the server info.
    reason: str
    attention_layer: type[AttentionLayer]
    ffn_layer: type[FfnLayer]
    head: type[Head]
    # One thread a core; empty where PyTorch sees to its threads itself.
    cores: tuple[int, ...] = ()

    def calling_thread(self) -> contextlib.AbstractContextManager[None]:
        """Where the thread that calls the operations belongs: on the first core."""
        return pinned(self.cores[0]) if self.cores else contextlib.nullcontext()


def select_kernels(
    choice: Literal["auto", "reference", "native"],
    dims: AttentionDims,
    block_size: int,
    *,
    threads: int | None = None,
    first_core: int = 0,
) -> Kernels:
    """The fastest implementation that this machine has, or the one asked for by name.

    Args:
      choice: from the settings.
      dims: of the model that is to run.
      block_size: tokens in a block of the KV cache.
      threads: of this process' native kernels; None takes every core.
      first_core: of the thread that will call them; see `threads.cores_for`.

    Raises:
      FailedPrecondition: `native` was asked for and cannot run here.
    """
    if choice == "reference":
        return _reference("asked for")
    obstacle = _native_obstacle(dims, block_size)
    if obstacle is None:
        cores = cores_for(threads, first_core)
        ops.set_threads(cores, _SPIN_US)
        return Kernels(
            "native",
            "C++ built for this processor",
            ops.NativeAttentionLayer,
            ops.NativeFfnLayer,
            ops.NativeHead,
            cores,
        )
    if choice == "native":
        raise FailedPrecondition(
            f"kernels = 'native' cannot run here: {obstacle}", reason="KERNELS_UNAVAILABLE"
        )
    return _reference(obstacle)


def _reference(reason: str) -> Kernels:
    return Kernels("reference", reason, ReferenceAttentionLayer, ReferenceFfnLayer, ReferenceHead)


def _native_obstacle(dims: AttentionDims, block_size: int) -> str | None:
    if not ops.supports(dims.hidden, dims.head_dim, dims.query_rank) or block_size % 16:
        return "the dimensions are not multiples of 16"
    if dims.norm_expert_weight:
        return "norm_expert_weight is set, and the native router follows the released form"
    try:
        ops.library()
    except (BuildError, OSError) as error:
        return str(error)
    return None
