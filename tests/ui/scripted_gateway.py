"""A gateway that follows a script: a real gRPC server whose answers and errors tests choose."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from step3.v1 import chat_pb2, chat_pb2_grpc, common_pb2

REASONING = "Add the ones: 7 + 8 = 15, write 5, carry 1.\nAdd the tens: 4 + 3 + 1 = 8."
ERRORS = {
    "UNAVAILABLE": ("INSTANCE_LOST", "The attention instance was lost before its first token.", 3),
    "RESOURCE_EXHAUSTED": ("QUEUE_FULL", "64 requests are running already.", 5),
    "INVALID_ARGUMENT": (
        "IMAGE_UNDECODABLE",
        "messages[0].parts[0].image: 12 bytes that are no picture; send a PNG or JPEG.",
        0,
    ),
    "INTERNAL": ("INTERNAL", "Internal error, incident 5c1f.", 0),
}
IMAGE_TOKENS = 36


class ScriptedChat(chat_pb2_grpc.ChatServiceServicer):
    """Thinks, then answers, a word at a time.

    "error: CODE" is refused with that code; a text with "long" gives 600 words; one with "markdown"
    gives a table and code; any other answer says how many images came and what was asked.
    """

    def __init__(self, word_s: float) -> None:
        self.word_s = word_s
        self.requests: list[chat_pb2.GenerateRequest] = []
        self.cancelled = 0

    async def StreamGenerate(
        self,
        request: chat_pb2.StreamGenerateRequest,
        context: grpc.aio.ServicerContext[
            chat_pb2.StreamGenerateRequest, chat_pb2.StreamGenerateResponse
        ],
    ) -> AsyncIterator[chat_pb2.StreamGenerateResponse]:
        self.requests.append(request.request)
        parts = request.request.messages[-1].parts
        text = " ".join(part.text for part in parts if part.text)
        images = sum(part.HasField("image") for part in parts)
        if text.startswith("error: "):
            await self._refuse(text.removeprefix("error: "), context)
        try:
            async for response in self._answer(text, images, request.request.sampling.max_tokens):
                yield response
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def ListModels(
        self,
        request: chat_pb2.ListModelsRequest,
        context: grpc.aio.ServicerContext[chat_pb2.ListModelsRequest, chat_pb2.ListModelsResponse],
    ) -> chat_pb2.ListModelsResponse:
        model = chat_pb2.Model(
            name="step3-nano", context_tokens=2048, accepts_images=True, max_images=8
        )
        return chat_pb2.ListModelsResponse(models=[model])

    async def _answer(
        self, text: str, images: int, max_tokens: int
    ) -> AsyncIterator[chat_pb2.StreamGenerateResponse]:
        image_tokens = IMAGE_TOKENS * images
        prompt_tokens = 12 + len(text.split()) + image_tokens
        yield chat_pb2.StreamGenerateResponse(
            started=chat_pb2.Started(
                request_id="r1",
                model="step3-nano",
                prompt_tokens=prompt_tokens,
                image_tokens=image_tokens,
            )
        )
        tokens = 0
        for word in REASONING.split(" "):
            await asyncio.sleep(self.word_s)
            tokens += 1
            yield chat_pb2.StreamGenerateResponse(
                delta=chat_pb2.Delta(reasoning=word + " ", completion_tokens=tokens)
            )
        for word in _reply(text, images).split(" "):
            await asyncio.sleep(self.word_s)
            tokens += 1
            yield chat_pb2.StreamGenerateResponse(
                delta=chat_pb2.Delta(content=word + " ", completion_tokens=tokens)
            )
        reason = (
            common_pb2.FINISH_REASON_LENGTH if max_tokens == 1 else common_pb2.FINISH_REASON_STOP
        )
        yield chat_pb2.StreamGenerateResponse(
            finished=chat_pb2.Finished(
                finish_reason=reason,
                usage=common_pb2.Usage(
                    prompt_tokens=prompt_tokens,
                    image_tokens=image_tokens,
                    completion_tokens=tokens,
                ),
                timings=common_pb2.Timings(time_to_first_token_ms=84.0, tokens_per_second=121.4),
            )
        )

    async def _refuse(self, code: str, context: grpc.aio.ServicerContext) -> None:
        reason, message, retry_s = ERRORS[code]
        details = [error_details_pb2.ErrorInfo(reason=reason, domain="gateway.step3")]
        if retry_s:
            delay = duration_pb2.Duration(seconds=retry_s)
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        packed = []
        for detail in details:
            packed.append(any_pb2.Any())
            packed[-1].Pack(detail)
        status = status_pb2.Status(
            code=grpc.StatusCode[code].value[0], message=message, details=packed
        )
        await context.abort_with_status(rpc_status.to_status(status))


def _reply(text: str, images: int) -> str:
    if "long" in text:
        return " ".join(f"word{number}" for number in range(1, 601))
    if "markdown" in text:
        return (
            "The **steps** of `47 + 38`:\n\n| place | sum |\n| --- | --- |\n| ones | 15 |\n"
            "| tens | 8 |\n\n```python\nprint(47 + 38)\n```\n\n你好，世界 🙂"
        )
    return f"You sent {images} images and asked: {text}"


@asynccontextmanager
async def serving(chat: ScriptedChat, port: int = 0) -> AsyncIterator[str]:
    """Serve `chat` and a healthy health service on the running loop; yields the address."""
    server = grpc.aio.server()
    chat_pb2_grpc.add_ChatServiceServicer_to_server(chat, server)
    healthy = health.aio.HealthServicer()
    await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@contextmanager
def serving_in_thread(chat: ScriptedChat) -> Iterator[str]:
    """The same on a thread and an event loop of its own, for tests that are not async."""
    started: Future[str] = Future()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with serving(chat) as address:
            started.set_result(address)
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        yield started.result(timeout=10)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
