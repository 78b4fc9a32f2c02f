from __future__ import annotations

import pytest
import torch
from step3.v1 import common_pb2

from shared.errors import InvalidArgument
from shared.rpc.tensors import pack, unpack


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
@pytest.mark.parametrize("shape", [(2, 3), (0, 4, 2), ()])
def test_round_trip(dtype, shape):
    tensor = (torch.arange(6)[:1].reshape(()) if shape == () else torch.arange(6)).to(dtype)
    tensor = tensor.reshape(shape) if tensor.numel() == torch.Size(shape).numel() else tensor[:0]
    tensor = tensor.reshape(shape)
    result = unpack(pack(tensor), "features")
    assert result.dtype == dtype
    assert torch.equal(result, tensor)


def test_a_transposed_tensor_is_written_row_major():
    tensor = torch.arange(6.0).view(2, 3).T
    assert torch.equal(unpack(pack(tensor), "features"), tensor)


@pytest.mark.parametrize(
    "message",
    [
        common_pb2.Tensor(dtype="complex64", shape=[1], data=bytes(8)),
        common_pb2.Tensor(dtype="float32", shape=[3], data=bytes(8)),
        common_pb2.Tensor(dtype="float32", shape=[-1, -2], data=bytes(8)),
    ],
)
def test_malformed_messages_are_refused(message):
    with pytest.raises(InvalidArgument, match="features") as caught:
        unpack(message, "features")
    assert caught.value.field == "features"
