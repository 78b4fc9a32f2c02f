"""From a checked conversation to what the attention service reads: token ids and image features."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc
from step3.v1 import common_pb2, vision_pb2, vision_pb2_grpc

from services.gateway.backends import Instance, Pool
from services.gateway.failures import Deadline, vision_failure
from services.gateway.validation import ChatRequest, Picture
from shared.errors import InvalidArgument
from shared.model.config import Step3Config
from shared.model.tiling import ImageTokenIds, expand_prompt
from shared.rpc.options import MAX_MESSAGE_BYTES
from shared.text.chat_template import render
from shared.text.tokenizer import Tokenizer

# Images of all requests that are with the vision service at once; it refuses a longer queue.
_MAX_ENCODES = 16
# Far more characters a token than any text has: longer prompts are refused before they are encoded.
_MAX_CHARS_PER_TOKEN = 32
# Left in a message for everything besides features.
_MESSAGE_MARGIN_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads. `image_tokens` counts the tokens of images, markers included."""

    token_ids: list[int]
    image_features: common_pb2.Tensor | None
    image_tokens: int


class PromptBuilder:
    """Renders conversations of one model.

    Args:
      tokenizer: of the model.
      config: of the model.
      vision: where images are encoded.
      context_tokens: prompt and answer together have at most so many.
    """

    def __init__(
        self, tokenizer: Tokenizer, config: Step3Config, vision: Pool, context_tokens: int
    ) -> None:
        special = tokenizer.special
        if special.im_patch != config.image_token_id:
            raise ValueError(
                f"config: image_token_id = {config.image_token_id}: "
                f"the tokenizer has <im_patch> at {special.im_patch}; they have to be equal"
            )
        self.tokenizer = tokenizer
        self.config = config
        self.context_tokens = context_tokens
        self._vision = vision
        self._encodes = asyncio.Semaphore(_MAX_ENCODES)
        self._image_ids = ImageTokenIds(
            im_start=special.im_start,
            im_patch=special.im_patch,
            im_end=special.im_end,
            patch_start=special.patch_start,
            patch_end=special.patch_end,
            patch_newline=special.patch_newline,
        )

    @classmethod
    def from_dir(cls, folder: Path, vision: Pool, max_context_tokens: int) -> Self:
        """Read the tokenizer and the configuration of a checkpoint.

        Raises:
          ConfigError, Step3Error: the folder cannot be used.
        """
        config = Step3Config.from_dir(folder)
        context_tokens = min(config.text.max_position_embedding, max_context_tokens)
        return cls(Tokenizer.from_dir(folder), config, vision, context_tokens)

    async def build(self, request: ChatRequest, deadline: Deadline) -> Prompt:
        """The prompt of `request`.

        Raises:
          InvalidArgument: the conversation, an image or the length is not acceptable.
          Unavailable: vision was lost.
        """
        self._check_characters(request)
        # In a thread: a long prompt takes long enough to hold up every other answer.
        rendered = await asyncio.to_thread(render, self.tokenizer, request.messages, request.tools)
        if not request.pictures:
            self._check_length(len(rendered.ids))
            return Prompt(rendered.ids, None, 0)
        at_least = self.config.image_token_len + 1
        self._check_length(len(rendered.ids) + at_least * len(request.pictures))
        images = await self._encode(request.pictures, request.request_id, deadline)
        newlines = [image.newline_after_crop for image in images]
        token_ids = expand_prompt(rendered.ids, newlines, self.config, self._image_ids)
        self._check_length(len(token_ids))
        image_tokens = len(token_ids) - len(rendered.ids) + len(images)
        return Prompt(token_ids, _joined(images), image_tokens)

    async def _encode(
        self, pictures: Sequence[Picture], request_id: str, deadline: Deadline
    ) -> list[vision_pb2.EncodeImageResponse]:
        """All pictures at once; the first failure cancels the others."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._encode_one(picture, request_id, deadline))
                    for picture in pictures
                ]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _encode_one(
        self, picture: Picture, request_id: str, deadline: Deadline
    ) -> vision_pb2.EncodeImageResponse:
        request = vision_pb2.EncodeImageRequest(request_id=request_id, image=picture.data)

        async def call(instance: Instance) -> vision_pb2.EncodeImageResponse:
            stub = vision_pb2_grpc.VisionServiceStub(instance.channel)
            try:
                return await stub.EncodeImage(request, timeout=deadline.remaining_s())
            except grpc.aio.AioRpcError as error:
                raise vision_failure(error, picture, deadline) from error

        async with self._encodes:
            return await self._vision.attempt(call)

    def _check_characters(self, request: ChatRequest) -> None:
        texts = [getattr(part, "text", "") for m in request.messages for part in m.parts]
        characters = sum(map(len, texts))
        limit = self.context_tokens * _MAX_CHARS_PER_TOKEN
        if characters > limit:
            raise InvalidArgument(
                f"messages: have {characters} characters, which cannot fit the context of "
                f"{self.context_tokens} tokens; shorten the conversation",
                reason="PROMPT_TOO_LONG",
                field="messages",
                metadata={
                    "characters": str(characters),
                    "context_tokens": str(self.context_tokens),
                },
            )

    def _check_length(self, prompt_tokens: int) -> None:
        if prompt_tokens >= self.context_tokens:
            raise InvalidArgument(
                f"messages: make {prompt_tokens} tokens, the context has {self.context_tokens} for "
                "prompt and answer; shorten the conversation or send fewer images",
                reason="PROMPT_TOO_LONG",
                field="messages",
                metadata={
                    "prompt_tokens": str(prompt_tokens),
                    "context_tokens": str(self.context_tokens),
                },
            )


def _joined(images: Sequence[vision_pb2.EncodeImageResponse]) -> common_pb2.Tensor:
    """[image tokens, hidden]: of every image the crops, then the thumbnail."""
    tensors = [tensor for image in images for tensor in (image.crops, image.thumbnail)]
    size = sum(len(tensor.data) for tensor in tensors)
    limit = MAX_MESSAGE_BYTES - _MESSAGE_MARGIN_BYTES
    if size > limit:
        raise InvalidArgument(
            f"messages: the images' features take {size} bytes, at most {limit} are taken; "
            "send fewer or smaller images",
            reason="TOO_MANY_IMAGES",
            field="messages",
            metadata={"feature_bytes": str(size), "max_feature_bytes": str(limit)},
        )
    hidden = tensors[0].shape[-1]
    rows = sum(
        tensor.shape[0] * (tensor.shape[1] if len(tensor.shape) == 3 else 1) for tensor in tensors
    )
    return common_pb2.Tensor(
        dtype=tensors[0].dtype,
        shape=[rows, hidden],
        data=b"".join(tensor.data for tensor in tensors),
    )
