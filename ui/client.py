"""The gateway as the console sees it: one stream of plain events for an answer, and its health."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from step3.v1 import chat_pb2, chat_pb2_grpc, common_pb2

from shared.rpc.client import Channels, RpcError


@dataclass(frozen=True, slots=True)
class Started:
    """The gateway accepted the prompt and counted it."""

    prompt_tokens: int
    image_tokens: int


@dataclass(frozen=True, slots=True)
class Reasoning:
    text: str
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Content:
    text: str
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of an answer that was not cut off.

    `reason` is "stop", "length", "tool_calls" or "aborted".
    """

    reason: str
    prompt_tokens: int
    image_tokens: int
    completion_tokens: int
    time_to_first_token_s: float
    tokens_per_second: float


Event = Started | Reasoning | Content | Finished


@dataclass(frozen=True, slots=True)
class GatewayState:
    """What the header shows. `model` is empty while the gateway cannot be asked."""

    status: str
    model: str = ""
    context_tokens: int = 0

    @property
    def ready(self) -> bool:
        return self.status == "ready"


class GatewayClient:
    """One channel to the gateway for the life of the process.

    The channel belongs to the event loop that makes the first call.

    Args:
      address: the gateway's host:port.
      deadline_s: how long one answer may take.
    """

    def __init__(self, address: str, *, deadline_s: float) -> None:
        self.address = address
        self._deadline_s = deadline_s
        self._channels = Channels()

    async def stream(
        self, messages: Sequence[chat_pb2.Message], sampling: common_pb2.SamplingParams
    ) -> AsyncIterator[Event]:
        """Events of one answer. Closing the iterator cancels the call.

        Raises:
          RpcError: the gateway refused the request or was lost.
        """
        request = chat_pb2.StreamGenerateRequest(
            request=chat_pb2.GenerateRequest(messages=messages, sampling=sampling)
        )
        stub = chat_pb2_grpc.ChatServiceStub(self._channels.get(self.address))
        call = stub.StreamGenerate(request, timeout=self._deadline_s)
        try:
            async for response in call:
                event = to_event(response)
                if event is not None:
                    yield event
        except grpc.aio.AioRpcError as error:
            raise RpcError.of(error) from None
        finally:
            call.cancel()

    async def state(self, timeout_s: float = 2.0) -> GatewayState:
        """The gateway's health and the model it serves; never raises for a gateway that is away."""
        channel = self._channels.get(self.address)
        try:
            health = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout_s
            )
            if health.status != health_pb2.HealthCheckResponse.SERVING:
                return GatewayState("starting")
            listed = await chat_pb2_grpc.ChatServiceStub(channel).ListModels(
                chat_pb2.ListModelsRequest(), timeout=timeout_s
            )
        except grpc.aio.AioRpcError:
            return GatewayState("away")
        if not listed.models:
            return GatewayState("starting")
        model = listed.models[0]
        return GatewayState("ready", model.name, model.context_tokens)

    async def close(self) -> None:
        await self._channels.close()


def to_event(response: chat_pb2.StreamGenerateResponse) -> Event | None:
    """A message of the stream as a plain event; None for a tool call, which is never asked for."""
    match response.WhichOneof("event"):
        case "started":
            return Started(response.started.prompt_tokens, response.started.image_tokens)
        case "delta":
            delta = response.delta
            match delta.WhichOneof("delta"):
                case "reasoning":
                    return Reasoning(delta.reasoning, delta.completion_tokens)
                case "content":
                    return Content(delta.content, delta.completion_tokens)
            return None
        case "finished":
            usage, timings = response.finished.usage, response.finished.timings
            name = common_pb2.FinishReason.Name(response.finished.finish_reason)
            return Finished(
                reason=name.removeprefix("FINISH_REASON_").lower(),
                prompt_tokens=usage.prompt_tokens,
                image_tokens=usage.image_tokens,
                completion_tokens=usage.completion_tokens,
                time_to_first_token_s=timings.time_to_first_token_ms / 1000,
                tokens_per_second=timings.tokens_per_second,
            )
    return None
