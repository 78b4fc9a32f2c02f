"""AttentionService: requests in, token streams out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from step3.v1 import attention_pb2, attention_pb2_grpc, common_pb2

from services.attention.engine import Output
from services.attention.prefix import BlockHasher
from services.attention.sequence import Finish, Sequence
from services.attention.validation import Limits, sequence_of
from services.attention.worker import EngineWorker, Failure
from shared.errors import ResourceExhausted

Event = attention_pb2.GenerateTokensResponse

_FINISH = {
    Finish.STOP: common_pb2.FINISH_REASON_STOP,
    Finish.LENGTH: common_pb2.FINISH_REASON_LENGTH,
    Finish.ABORTED: common_pb2.FINISH_REASON_ABORTED,
}


class AttentionServicer(attention_pb2_grpc.AttentionServiceServicer):
    """Serves one engine. Lives on the event loop that it was made on."""

    def __init__(self, limits: Limits, *, max_requests: int) -> None:
        self.limits = limits
        self._max_requests = max_requests
        self._hasher = BlockHasher(limits.block_size, limits.image_token_id)
        self._loop = asyncio.get_running_loop()
        self._queues: dict[int, asyncio.Queue[Output | Failure]] = {}
        self.worker: EngineWorker | None = None

    def deliver(self, outputs: list[Output | Failure]) -> None:
        """Hand a step's outputs to their streams; called in the engine's thread."""
        self._loop.call_soon_threadsafe(self._route, outputs)

    def _route(self, outputs: list[Output | Failure]) -> None:
        for output in outputs:
            # A stream that was cancelled has no queue any more.
            queue = self._queues.get(id(output.sequence))
            if queue is not None:
                queue.put_nowait(output)

    async def GenerateTokens(
        self, request: attention_pb2.GenerateTokensRequest, context: Any
    ) -> AsyncIterator[Event]:
        assert self.worker is not None, "served before the engine was made"
        sequence = sequence_of(request, self.limits)
        if sequence.image_features is not None:
            # Megabytes to hash: neither this loop nor the engine's thread should stop for them.
            await asyncio.to_thread(
                self._hasher.extend, sequence, len(sequence.prompt_ids) // self.limits.block_size
            )
        if len(self._queues) >= self._max_requests:
            raise ResourceExhausted(
                f"{len(self._queues)} requests run or wait, the most that this instance takes; "
                "try again shortly",
                reason="QUEUE_FULL",
                retry_after_s=1.0,
            )
        queue: asyncio.Queue[Output | Failure] = asyncio.Queue()
        self._queues[id(sequence)] = queue
        self.worker.submit(sequence)
        try:
            yield Event(
                accepted=attention_pb2.PromptAccepted(prompt_tokens=len(sequence.prompt_ids))
            )
            async for event in _events(sequence, queue):
                yield event
        finally:
            # Also on cancel and deadline: the engine frees the blocks at its next step.
            del self._queues[id(sequence)]
            self.worker.abort(sequence)

    async def GetLoad(
        self, request: attention_pb2.GetLoadRequest, context: Any
    ) -> attention_pb2.GetLoadResponse:
        assert self.worker is not None
        load = self.worker.load()
        return attention_pb2.GetLoadResponse(
            running=load.running,
            waiting=load.waiting,
            kv_blocks_used=load.kv_blocks_used,
            kv_blocks_total=load.kv_blocks_total,
            kv_blocks_cached=load.kv_blocks_cached,
            hit_tokens=load.hit_tokens,
            preemptions=load.preemptions,
            tokens_per_second=load.tokens_per_second,
        )


async def _events(
    sequence: Sequence, queue: asyncio.Queue[Output | Failure]
) -> AsyncIterator[Event]:
    """Deltas of all tokens that are ready, then the end."""
    completion_tokens = 0
    while True:
        outputs = [await queue.get()]
        while not queue.empty():
            outputs.append(queue.get_nowait())
        token_ids: list[int] = []
        finish: Finish | None = None
        for output in outputs:
            if isinstance(output, Failure):
                raise output.error
            if output.token_id is not None:
                token_ids.append(output.token_id)
            finish = output.finish or finish
        completion_tokens += len(token_ids)
        if token_ids:
            yield Event(
                delta=attention_pb2.TokenDelta(
                    token_ids=token_ids, cached_tokens=sequence.cached_tokens
                )
            )
        if finish is not None:
            scheduled = sequence.first_scheduled_s or time.monotonic()
            yield Event(
                finished=attention_pb2.TokensFinished(
                    finish_reason=_FINISH[finish],
                    completion_tokens=completion_tokens,
                    cached_tokens=sequence.cached_tokens,
                    queue_ms=1e3 * (scheduled - sequence.arrival_s),
                )
            )
            return
