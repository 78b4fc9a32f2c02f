from __future__ import annotations

import asyncio

import grpc
import pytest
import torch
from safetensors.torch import load_file, save_file
from step3.v1 import vision_pb2

from services.vision.service import VisionService
from shared.model.checkpoint import CheckpointError
from shared.rpc.client import RpcError
from shared.rpc.tensors import unpack


def request(image: bytes) -> vision_pb2.EncodeImageRequest:
    return vision_pb2.EncodeImageRequest(request_id="r", image=image)


async def refusal(stub, image: bytes) -> RpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.EncodeImage(request(image), timeout=20)
    return RpcError.of(caught.value)


async def test_features_equal_the_reference_vectors(stub, png, tiny):
    vectors = load_file(tiny / "vectors.safetensors")
    answer = await stub.EncodeImage(request(png(200, 120)), timeout=20)
    thumbnail, crops = unpack(answer.thumbnail, ""), unpack(answer.crops, "")
    assert thumbnail.dtype == torch.float32
    torch.testing.assert_close(thumbnail, vectors["B.projector.0"][0], atol=2e-4, rtol=0)
    torch.testing.assert_close(crops, vectors["B.projector.1"], atol=2e-4, rtol=0)
    assert list(answer.newline_after_crop) == [False, False]


async def test_image_without_crops(stub, png):
    answer = await stub.EncodeImage(request(png(96, 80)), timeout=20)
    assert list(answer.crops.shape) == [0, 81, 64]
    assert list(answer.thumbnail.shape) == [169, 64]
    assert not answer.newline_after_crop


async def test_bad_images_are_refused_and_disturb_nobody(stub, png):
    good = asyncio.ensure_future(stub.EncodeImage(request(png(96, 80)), timeout=20))
    cases = {
        b"": "IMAGE_UNDECODABLE",
        b"not a picture": "IMAGE_UNDECODABLE",
        png(96, 80)[:200]: "IMAGE_UNDECODABLE",
        png(1200, 1000): "IMAGE_TOO_LARGE",
        b"\x89PNG" + bytes(1_000_001): "IMAGE_TOO_LARGE",
        png(720, 40): "IMAGE_TOO_MANY_CROPS",
    }
    for image, reason in cases.items():
        error = await refusal(stub, image)
        assert error.code == grpc.StatusCode.INVALID_ARGUMENT
        assert (error.reason, error.field) == (reason, "image")
    assert list((await good).thumbnail.shape) == [169, 64]


async def test_an_image_seen_before_is_not_encoded_again(stub, service, png, monkeypatch):
    first = await stub.EncodeImage(request(png(96, 80)), timeout=20)
    monkeypatch.setattr(service, "_encode", None)
    assert await stub.EncodeImage(request(png(96, 80)), timeout=20) == first


async def test_only_vision_tensors_are_needed(settings, tiny, tmp_path):
    tensors = load_file(tiny / "model.safetensors")
    vision = {k: v for k, v in tensors.items() if k.startswith(("vision_model.", "vit_"))}
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny / "config.json").read_bytes())
    save_file(vision, folder / "model.safetensors")
    await VisionService(settings.model_copy(update={"model": folder})).load()

    del vision["vit_large_projector.weight"]
    save_file(vision, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"vit_large_projector\.weight"):
        await VisionService(settings.model_copy(update={"model": folder})).load()
