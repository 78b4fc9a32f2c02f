"""Tensors in messages: row-major, little-endian bytes with a data type and a shape."""

from __future__ import annotations

import math

import torch
from step3.v1 import common_pb2

from shared.errors import InvalidArgument

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int64": torch.int64,
    "int32": torch.int32,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def pack(tensor: torch.Tensor) -> common_pb2.Tensor:
    """`tensor` as a message; of any device, of one of the data types that common.proto names."""
    flat = tensor.detach().cpu().contiguous().flatten()
    # NumPy has no bfloat16, bytes it has.
    data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return common_pb2.Tensor(dtype=_NAMES[tensor.dtype], shape=tensor.shape, data=data)


def unpack(message: common_pb2.Tensor, field: str) -> torch.Tensor:
    """The tensor in `message`, a copy on the CPU. `field` is its path in the request.

    Raises:
      InvalidArgument: the data type is unknown, or shape and data do not fit together.
    """
    dtype = _DTYPES.get(message.dtype)
    if dtype is None:
        raise _malformed(field, f"dtype = {message.dtype!r}: must be one of {', '.join(_DTYPES)}")
    shape = tuple(message.shape)
    wanted = math.prod(shape) * dtype.itemsize
    if any(size < 0 for size in shape) or wanted != len(message.data):
        raise _malformed(
            field, f"{len(message.data)} bytes for {message.dtype} of shape {list(shape)}"
        )
    if not message.data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(message.data), dtype=dtype).view(shape)


def _malformed(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {problem}", reason="TENSOR_MALFORMED", field=field)
