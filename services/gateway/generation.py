"""The inner half of a request: a task that builds the prompt and reads tokens into a queue."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import grpc
from step3.v1 import attention_pb2, attention_pb2_grpc, common_pb2

from services.gateway.backends import Instance, Pool
from services.gateway.failures import Deadline, attention_failure, lost
from services.gateway.prompt import Prompt, PromptBuilder
from services.gateway.validation import ChatRequest


@dataclass(frozen=True, slots=True)
class Accepted:
    """The prompt is with an attention instance."""

    prompt_tokens: int
    image_tokens: int
    at: float


@dataclass(frozen=True, slots=True)
class Tokens:
    """Generated tokens, and when (`time.monotonic`) they came."""

    token_ids: list[int]
    at: float
    # Of the prompt.
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Ended:
    """No more tokens come."""

    finish_reason: common_pb2.FinishReason.ValueType
    completion_tokens: int = 0
    cached_tokens: int = 0
    queue_ms: float | None = None


Item = Accepted | Tokens | Ended | Exception


class Generation:
    """One running request. Items arrive in `items`; the last is an `Ended` or an exception.

    The queue is as long as the answer at most, so a slow reader needs no other bound.
    """

    def __init__(
        self, request: ChatRequest, prompts: PromptBuilder, attention: Pool, deadline: Deadline
    ) -> None:
        self.items: asyncio.Queue[Item] = asyncio.Queue()
        self._request = request
        self._prompts = prompts
        self._attention = attention
        self._deadline = deadline
        self._tokens = 0
        self.task = asyncio.create_task(self._run())

    def cancel(self) -> None:
        """Free what the request holds, everywhere. Nothing more arrives."""
        self.task.cancel()

    def abort(self) -> None:
        """End the answer here: what has arrived stays, then comes an `Ended`."""
        if self.task.cancel():
            self.items.put_nowait(Ended(common_pb2.FINISH_REASON_ABORTED))

    async def _run(self) -> None:
        try:
            prompt = await self._prompts.build(self._request, self._deadline)
            await self._attention.attempt(lambda instance: self._generate(prompt, instance))
        except Exception as error:
            self.items.put_nowait(error)

    async def _generate(self, prompt: Prompt, instance: Instance) -> None:
        """Read one instance's tokens; Unavailable is raised before the first of them only."""
        room = self._prompts.context_tokens - len(prompt.token_ids)
        sampling = common_pb2.SamplingParams()
        sampling.CopyFrom(self._request.sampling)
        sampling.max_tokens = min(sampling.max_tokens, room)
        request = attention_pb2.GenerateTokensRequest(
            request_id=self._request.request_id,
            token_ids=prompt.token_ids,
            image_features=prompt.image_features,
            sampling=sampling,
            priority=self._request.priority,
        )
        stub = attention_pb2_grpc.AttentionServiceStub(instance.channel)
        call = stub.GenerateTokens(request, timeout=self._deadline.remaining_s())
        try:
            async for response in call:
                if self._take(response, prompt):
                    return
        except grpc.aio.AioRpcError as error:
            raise attention_failure(error, self._tokens, self._deadline) from error
        finally:
            call.cancel()
        raise lost("attention", self._tokens)

    def _take(self, response: attention_pb2.GenerateTokensResponse, prompt: Prompt) -> bool:
        """Queue what a message says; whether it was the last one."""
        match response.WhichOneof("event"):
            case "accepted":
                self.items.put_nowait(
                    Accepted(len(prompt.token_ids), prompt.image_tokens, time.monotonic())
                )
            case "delta":
                token_ids = list(response.delta.token_ids)
                self._tokens += len(token_ids)
                cached_tokens = response.delta.cached_tokens
                self.items.put_nowait(Tokens(token_ids, time.monotonic(), cached_tokens))
            case "finished":
                end = response.finished
                self.items.put_nowait(
                    Ended(end.finish_reason, end.completion_tokens, end.cached_tokens, end.queue_ms)
                )
                return True
        return False
