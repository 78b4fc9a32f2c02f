"""The C++ kernels as operations. Each wrapper checks what the C code relies on, then calls it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from shared.ffn.backend import Routing
from shared.kernels.api import AttentionBatch, AttentionDims, AttentionWeights, FfnWeights, KvCache
from shared.kernels.build import ensure_built

# Dimension key: T tokens, H hidden, C head dim, P positions, S sequences, V vocabulary

_LANES = 16
_MAX_HEAD_DIM = 2048

_i32 = ctypes.c_int32
_pointer = ctypes.c_void_p


class _AttentionDims(ctypes.Structure):
    _fields_ = [
        (name, _i32)
        for name in ("hidden", "heads", "head_dim", "query_rank", "experts", "top_k", "block_size")
    ] + [("eps", ctypes.c_float)]


class _AttentionWeights(ctypes.Structure):
    _fields_ = [
        (name, _pointer)
        for name in (
            "input_norm",
            "q_proj",
            "k_proj",
            "v_proj",
            "inter_norm",
            "wq",
            "o_proj",
            "post_norm",
            "gate",
        )
    ]


class _AttentionBatch(ctypes.Structure):
    _fields_ = [
        ("tokens", _i32),
        ("max_blocks", _i32),
        ("positions", _pointer),
        ("sequences", _pointer),
        ("block_tables", _pointer),
        ("cos", _pointer),
        ("sin", _pointer),
    ]


class _FfnDims(ctypes.Structure):
    _fields_ = [
        (name, _i32)
        for name in ("hidden", "experts", "first_expert", "expert_width", "shared_width")
    ]


class _FfnWeights(ctypes.Structure):
    _fields_ = [
        (name, _pointer)
        for name in ("gate", "up", "down", "shared_gate", "shared_up", "shared_down")
    ]


@cache
def library() -> ctypes.CDLL:
    """The built library.

    Raises:
      BuildError: it is not built and cannot be.
    """
    lib = ctypes.CDLL(str(ensure_built()))
    for name, result, arguments in (
        ("s3_attention_create", _pointer, [_pointer, _pointer]),
        ("s3_attention_destroy", None, [_pointer]),
        ("s3_attention_run", None, [_pointer] * 9),
        ("s3_ffn_create", _pointer, [_pointer, _pointer]),
        ("s3_ffn_destroy", None, [_pointer]),
        ("s3_ffn_run", None, [_pointer, _i32, _i32, _pointer, _pointer, _pointer, _pointer]),
        ("s3_head_create", _pointer, [_i32, _i32, ctypes.c_float, _pointer, _pointer]),
        ("s3_head_destroy", None, [_pointer]),
        ("s3_head_run", None, [_pointer, _i32, _pointer, _pointer, _pointer, _pointer]),
        ("s3_set_threads", None, [_i32, _pointer, _i32]),
    ):
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments
    return lib


def set_threads(cores: Sequence[int], spin_us: int) -> None:
    """One thread a core for the process' pool, the caller's first; how long an idle one spins."""
    library().s3_set_threads(len(cores), (_i32 * len(cores))(*cores), spin_us)


def supports(hidden: int, head_dim: int, query_rank: int) -> bool:
    """Whether the kernels take these dimensions: rows are read in whole vectors."""
    return (
        hidden % _LANES == 0
        and query_rank % _LANES == 0
        and head_dim % _LANES == 0
        and head_dim <= _MAX_HEAD_DIM
    )


def _float32(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", torch.float32).contiguous()


def _check(tensor: Tensor, dtype: torch.dtype, numel: int) -> int:
    """The address of what the C code will take for `numel` elements in a row."""
    assert tensor.dtype is dtype and tensor.numel() == numel and tensor.is_contiguous(), (
        f"{tuple(tensor.shape)} {tensor.dtype} where {numel} of {dtype} in a row are wanted"
    )
    return tensor.data_ptr()


class NativeAttentionLayer:
    def __init__(
        self, dims: AttentionDims, weights: AttentionWeights, cos_PC: Tensor, sin_PC: Tensor
    ) -> None:
        assert supports(dims.hidden, dims.head_dim, dims.query_rank), dims
        assert not dims.norm_expert_weight, "the native router follows the released form"
        self._dims = dims
        self._lib = library()
        self._cos_PC, self._sin_PC = _float32(cos_PC), _float32(sin_PC)
        self._moe = weights.gate_EH is not None
        fields = {
            "input_norm": weights.input_norm_H,
            "q_proj": weights.q_proj_RH,
            "k_proj": weights.k_proj_CH,
            "v_proj": weights.v_proj_CH,
            "inter_norm": weights.inter_norm_R,
            "wq": weights.wq_OR,
            "o_proj": weights.o_proj_HO,
            "post_norm": weights.post_norm_H,
        }
        if weights.gate_EH is not None:
            fields["gate"] = weights.gate_EH
        # create() packs its own copies: these live until it returns.
        kept = {name: _float32(tensor) for name, tensor in fields.items()}
        self._block_size = 0
        self._handle: int | None = None
        self._kept = kept
        self._normed_TH = torch.empty(0, dims.hidden)
        self._ids_TK = torch.empty(0, dims.top_k, dtype=torch.int32)
        self._weights_TK = torch.empty(0, dims.top_k)

    def _create(self, block_size: int) -> None:
        assert block_size % _LANES == 0, f"block_size {block_size}: must be a multiple of {_LANES}"
        d = self._dims
        c_dims = _AttentionDims(
            d.hidden, d.heads, d.head_dim, d.query_rank, d.experts, d.top_k, block_size, d.eps
        )
        c_weights = _AttentionWeights(**{k: t.data_ptr() for k, t in self._kept.items()})
        self._handle = self._lib.s3_attention_create(ctypes.byref(c_dims), ctypes.byref(c_weights))
        self._block_size = block_size
        self._kept = {}

    def __call__(
        self, hidden_TH: Tensor, ffn_out_TH: Tensor | None, batch: AttentionBatch, cache: KvCache
    ) -> tuple[Tensor, Routing | None]:
        if self._handle is None:
            self._create(cache.block_size)
        assert cache.block_size == self._block_size
        tokens, hidden = hidden_TH.shape
        if tokens > self._normed_TH.shape[0]:
            self._normed_TH = torch.empty(tokens, hidden)
            self._ids_TK = torch.empty(tokens, self._dims.top_k, dtype=torch.int32)
            self._weights_TK = torch.empty(tokens, self._dims.top_k)
        tables_SM = batch.block_tables_SM
        c_batch = _AttentionBatch(
            tokens,
            tables_SM.shape[1],
            _check(batch.positions_T, torch.int32, tokens),
            _check(batch.sequences_T, torch.int32, tokens),
            _check(tables_SM, torch.int32, tables_SM.numel()),
            self._cos_PC.data_ptr(),
            self._sin_PC.data_ptr(),
        )
        numel = tokens * self._dims.hidden
        self._lib.s3_attention_run(
            self._handle,
            ctypes.byref(c_batch),
            _check(hidden_TH, torch.float32, numel),
            None if ffn_out_TH is None else _check(ffn_out_TH, torch.float32, numel),
            cache.keys_BCP.data_ptr(),
            cache.values_BPC.data_ptr(),
            self._normed_TH.data_ptr(),
            self._ids_TK.data_ptr(),
            self._weights_TK.data_ptr(),
        )
        routing = Routing(self._ids_TK[:tokens], self._weights_TK[:tokens]) if self._moe else None
        return self._normed_TH[:tokens], routing

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._lib.s3_attention_destroy(self._handle)


class NativeFfnLayer:
    def __init__(self, weights: FfnWeights) -> None:
        self._lib = library()
        experts = width = shared_width = hidden = 0
        kept: dict[str, Tensor] = {}
        if weights.gate_EIH is not None:
            assert weights.up_EIH is not None and weights.down_EHI is not None
            experts, width, hidden = weights.gate_EIH.shape
            kept |= {
                "gate": _float32(weights.gate_EIH),
                "up": _float32(weights.up_EIH),
                "down": _float32(weights.down_EHI),
            }
        if weights.shared_gate_IH is not None:
            assert weights.shared_up_IH is not None and weights.shared_down_HI is not None
            shared_width, hidden = weights.shared_gate_IH.shape
            kept |= {
                "shared_gate": _float32(weights.shared_gate_IH),
                "shared_up": _float32(weights.shared_up_IH),
                "shared_down": _float32(weights.shared_down_HI),
            }
        assert hidden % _LANES == 0, hidden
        self._hidden = hidden
        c_dims = _FfnDims(hidden, experts, weights.first_expert, width, shared_width)
        c_weights = _FfnWeights(**{name: tensor.data_ptr() for name, tensor in kept.items()})
        self._handle = self._lib.s3_ffn_create(ctypes.byref(c_dims), ctypes.byref(c_weights))

    def __call__(self, normed_TH: Tensor, routing: Routing | None, out_TH: Tensor) -> None:
        tokens = normed_TH.shape[0]
        top_k, ids, weights = 0, None, None
        if routing is not None:
            top_k = routing.expert_ids_TK.shape[1]
            ids = _check(routing.expert_ids_TK, torch.int32, tokens * top_k)
            weights = _check(routing.weights_TK, torch.float32, tokens * top_k)
        self._lib.s3_ffn_run(
            self._handle,
            tokens,
            top_k,
            _check(normed_TH, torch.float32, tokens * self._hidden),
            ids,
            weights,
            _check(out_TH, torch.float32, tokens * self._hidden),
        )

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._lib.s3_ffn_destroy(self._handle)


class NativeHead:
    def __init__(self, norm_H: Tensor, weight_VH: Tensor, eps: float) -> None:
        self._lib = library()
        self._vocab, self._hidden = weight_VH.shape
        norm_H, weight_VH = _float32(norm_H), _float32(weight_VH)
        self._handle = self._lib.s3_head_create(
            self._hidden, self._vocab, eps, norm_H.data_ptr(), weight_VH.data_ptr()
        )

    def __call__(self, hidden_TH: Tensor, ffn_out_TH: Tensor, rows_S: Tensor) -> Tensor:
        logits_SV = torch.empty(rows_S.shape[0], self._vocab)
        numel = hidden_TH.shape[0] * self._hidden
        self._lib.s3_head_run(
            self._handle,
            rows_S.shape[0],
            _check(rows_S, torch.int32, rows_S.shape[0]),
            _check(hidden_TH, torch.float32, numel),
            _check(ffn_out_TH, torch.float32, numel),
            logits_SV.data_ptr(),
        )
        return logits_SV

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._lib.s3_head_destroy(self._handle)
