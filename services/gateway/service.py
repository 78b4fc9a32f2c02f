"""ChatService: admission, one answer stream for both calls, abort."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
from step3.v1 import chat_pb2, chat_pb2_grpc

from services.gateway.answer import Answer
from services.gateway.backends import Backends
from services.gateway.failures import Deadline
from services.gateway.generation import Generation
from services.gateway.prompt import PromptBuilder
from services.gateway.validation import ChatRequest, check_request
from shared.errors import AlreadyExists, ResourceExhausted
from shared.rpc.client import inner_deadline
from shared.rpc.logging import request_id
from shared.settings import Settings

logger = logging.getLogger(__name__)

# After a delta, tokens are gathered this long for the next: each message costs the gateway some
# 0.2 ms of its one core, and nobody reads a hundred a second.
_COALESCE_S = 0.01

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class ChatService(chat_pb2_grpc.ChatServiceServicer):
    """The conversation API over `backends`, for the model in the settings' folder.

    Raises:
      ConfigError, Step3Error: the model's folder cannot be used.
    """

    def __init__(self, settings: Settings, backends: Backends) -> None:
        self.model = settings.model.absolute().name
        self._settings = settings
        self._attention = backends.attention
        attention = settings.attention
        self._prompts = PromptBuilder.from_dir(
            settings.model,
            backends.vision,
            # One block stays unused (see BlockPool of the attention service).
            (attention.num_blocks - 1) * attention.block_size,
        )
        self._running: dict[str, Generation] = {}

    def capabilities(self) -> dict[str, str]:
        return {"model": self.model, "running": str(len(self._running))}

    async def Generate(
        self, request: chat_pb2.GenerateRequest, context: Context
    ) -> chat_pb2.GenerateResponse:
        answer = chat_pb2.GenerateResponse(model=self.model)
        async for response in self._stream(request, context):
            match response.WhichOneof("event"):
                case "started":
                    answer.request_id = response.started.request_id
                case "delta":
                    delta = response.delta
                    answer.reasoning += delta.reasoning
                    answer.content += delta.content
                    if delta.HasField("tool_call"):
                        answer.tool_calls.append(delta.tool_call)
                case "finished":
                    answer.finish_reason = response.finished.finish_reason
                    answer.usage.CopyFrom(response.finished.usage)
                    answer.timings.CopyFrom(response.finished.timings)
        return answer

    async def StreamGenerate(
        self, request: chat_pb2.StreamGenerateRequest, context: Context
    ) -> AsyncIterator[chat_pb2.StreamGenerateResponse]:
        async for response in self._stream(request.request, context):
            yield response

    async def AbortGenerate(
        self, request: chat_pb2.AbortGenerateRequest, context: Context
    ) -> chat_pb2.AbortGenerateResponse:
        generation = self._running.get(request.request_id)
        if generation is not None:
            generation.abort()
        return chat_pb2.AbortGenerateResponse(found=generation is not None)

    async def ListModels(
        self, request: chat_pb2.ListModelsRequest, context: Context
    ) -> chat_pb2.ListModelsResponse:
        max_images = self._settings.gateway.max_images
        model = chat_pb2.Model(
            name=self.model,
            context_tokens=self._prompts.context_tokens,
            accepts_images=max_images > 0,
            max_images=max_images,
        )
        return chat_pb2.ListModelsResponse(models=[model])

    async def _stream(
        self, request: chat_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[chat_pb2.StreamGenerateResponse]:
        arrived = time.monotonic()
        checked = check_request(
            request,
            model=self.model,
            limits=self._settings.gateway,
            defaults=self._settings.sampling,
        )
        request_id.set(checked.request_id)
        deadline = Deadline(inner_deadline(context, self._settings.gateway.default_deadline_s))
        generation = self._admit(checked, deadline)
        # Whatever ends the call also ends the work; a generator may be closed only later.
        context.add_done_callback(lambda _: generation.cancel())  # type: ignore[arg-type]
        answer = Answer(checked, self._prompts.tokenizer, self.model, arrived)
        try:
            while not answer.finished:
                items = [await generation.items.get()]
                while not generation.items.empty():
                    items.append(generation.items.get_nowait())
                for response in answer.take(items):
                    yield response
                if not answer.finished:
                    await asyncio.sleep(_COALESCE_S)
        finally:
            generation.cancel()
        elapsed_ms = (time.monotonic() - arrived) * 1000
        logger.info("answered: %s in %.0f ms", answer.summary, elapsed_ms)

    def _admit(self, request: ChatRequest, deadline: Deadline) -> Generation:
        """Start the request, unless too many run already."""
        key = request.request_id
        limit = self._settings.gateway.max_concurrent_requests
        if len(self._running) >= limit:
            raise ResourceExhausted(
                f"{limit} requests are running already; try again in a moment",
                reason="TOO_MANY_REQUESTS",
                metadata={"max_concurrent_requests": str(limit)},
                retry_after_s=1.0,
            )
        if key in self._running:
            raise AlreadyExists(
                f"request_id: a request {key!r} is running; use another id or none",
                reason="REQUEST_ID_IN_USE",
                field="request_id",
            )
        generation = Generation(request, self._prompts, self._attention, deadline)
        self._running[key] = generation
        generation.task.add_done_callback(lambda _: self._running.pop(key))
        return generation
