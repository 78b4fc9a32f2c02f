"""VisionService: one image a call, one image at a time on the device."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from step3.v1 import vision_pb2, vision_pb2_grpc

from services.vision.cache import FeatureCache
from services.vision.encoder import Encoder, Features, ImageLimits
from shared.errors import InvalidArgument, ResourceExhausted
from shared.rpc.logging import request_id
from shared.rpc.tensors import pack
from shared.settings import Settings

logger = logging.getLogger(__name__)

CACHE_BYTES = 256 * 2**20
MAX_WAITING = 64


class VisionService(vision_pb2_grpc.VisionServiceServicer):
    """`load` first; the server refuses calls until then."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")
        self._cache = FeatureCache(CACHE_BYTES)
        self._waiting = 0
        self._encoder: Encoder | None = None

    async def load(self) -> None:
        """Read the checkpoint's vision tensors.

        Raises:
          CheckpointError: the folder cannot be used.
        """
        gateway = self._settings.gateway
        limits = ImageLimits(
            max_bytes=gateway.max_image_bytes,
            max_pixels=gateway.max_image_pixels,
            max_crops=self._settings.vision.max_crops,
        )
        self._encoder = await asyncio.get_running_loop().run_in_executor(
            self._thread, Encoder.from_dir, self._settings.model, limits
        )

    def capabilities(self) -> dict[str, str]:
        facts = {"model": self._settings.model.name, "cache_bytes": str(self._cache.nbytes)}
        return facts | ({"device": str(self._encoder.device)} if self._encoder else {})

    async def EncodeImage(
        self, request: vision_pb2.EncodeImageRequest, context: Any
    ) -> vision_pb2.EncodeImageResponse:
        request_id.set(request.request_id)
        if not request.image:
            raise InvalidArgument(
                "image: is empty; send the bytes of a picture",
                reason="IMAGE_UNDECODABLE",
                field="image",
            )
        key = self._cache.key(request.image)
        features = self._cache.get(key)
        if features is None:
            features = await self._encode(request.image)
            self._cache.put(key, features)
        return vision_pb2.EncodeImageResponse(
            thumbnail=pack(features.thumbnail_TH),
            crops=pack(features.crops_PCH),
            newline_after_crop=features.newline_after,
        )

    async def _encode(self, image: bytes) -> Features:
        assert self._encoder is not None, "load() comes before serving"
        if self._waiting >= MAX_WAITING:
            raise ResourceExhausted(
                f"{MAX_WAITING} images are waiting already; try again in a moment",
                reason="QUEUE_FULL",
                retry_after_s=1.0,
            )
        started = time.monotonic()
        self._waiting += 1
        try:
            # A cancelled call that still waits for the thread never reaches it.
            features = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._encoder.encode, image
            )
        finally:
            self._waiting -= 1
        elapsed_ms = (time.monotonic() - started) * 1000
        logger.info("encoded %d crops in %.0f ms", len(features.newline_after), elapsed_ms)
        return features
