"""`chat`: one answer through the gateway, streamed to the terminal or as one JSON object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import typer
from step3.v1 import chat_pb2, chat_pb2_grpc, common_pb2

from shared.cli.report import print_json
from shared.errors import InvalidArgument, Step3Error, Unavailable
from shared.rpc.client import RpcError, open_channel


@dataclass(slots=True)
class Answer:
    """A streamed answer, put together again."""

    reasoning: str = ""
    content: str = ""
    tool_calls: list[chat_pb2.ToolCall] = field(default_factory=list)
    started: chat_pb2.Started = field(default_factory=chat_pb2.Started)
    finished: chat_pb2.Finished = field(default_factory=chat_pb2.Finished)

    def add(self, event: chat_pb2.StreamGenerateResponse) -> None:
        match event.WhichOneof("event"):
            case "started":
                self.started = event.started
            case "finished":
                self.finished = event.finished
            case "delta":
                self.reasoning += event.delta.reasoning
                self.content += event.delta.content
                if event.delta.HasField("tool_call"):
                    self.tool_calls.append(event.delta.tool_call)

    def to_json(self) -> dict[str, Any]:
        usage, timings = self.finished.usage, self.finished.timings
        return {
            "request_id": self.started.request_id,
            "model": self.started.model,
            "reasoning": self.reasoning,
            "content": self.content,
            "tool_calls": [
                {"id": call.id, "name": call.name, "arguments": call.arguments_json}
                for call in self.tool_calls
            ],
            "finish_reason": finish_word(self.finished.finish_reason),
            "usage": {
                "prompt_tokens": usage.prompt_tokens,
                "image_tokens": usage.image_tokens,
                "completion_tokens": usage.completion_tokens,
                "reasoning_tokens": usage.reasoning_tokens,
                "cached_tokens": usage.cached_tokens,
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            },
            "timings": {
                "queue_ms": timings.queue_ms,
                "time_to_first_token_ms": timings.time_to_first_token_ms,
                "total_ms": timings.total_ms,
                "tokens_per_second": timings.tokens_per_second,
            },
        }


def finish_word(reason: common_pb2.FinishReason.ValueType) -> str:
    """The reason in the words of the OpenAI API: stop, length, tool_calls (or aborted)."""
    return common_pb2.FinishReason.Name(reason).removeprefix("FINISH_REASON_").lower()


def build_request(
    text: str,
    images: Sequence[Path],
    *,
    max_tokens: int | None,
    temperature: float | None,
    seed: int | None,
) -> chat_pb2.StreamGenerateRequest:
    """One user turn: the images in their order, then the text.

    Raises:
      InvalidArgument: an image cannot be read.
    """
    parts = [chat_pb2.Part(image=chat_pb2.Image(data=_read_image(path))) for path in images]
    parts.append(chat_pb2.Part(text=text))
    message = chat_pb2.Message(role=chat_pb2.ROLE_USER, parts=parts)
    sampling = common_pb2.SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
    return chat_pb2.StreamGenerateRequest(
        request=chat_pb2.GenerateRequest(messages=[message], sampling=sampling)
    )


def chat(
    address: str, request: chat_pb2.StreamGenerateRequest, *, deadline_s: float, json_output: bool
) -> None:
    """Sends `request` to the gateway at `address` (host:port) and writes the answer.

    Raises:
      Unavailable: no gateway answers there.
      Step3Error: the gateway refused the request or lost it; its own message.
    """
    answer = Answer()
    with open_channel(address) as channel:
        stub = chat_pb2_grpc.ChatServiceStub(channel)
        try:
            for event in stub.StreamGenerate(request, timeout=deadline_s):
                answer.add(event)
                if not json_output:
                    for text in _shown(event, answer):
                        typer.echo(text, nl=False)
        except grpc.RpcError as error:
            if not json_output and (answer.reasoning or answer.content):
                typer.echo()  # the message starts on a line of its own
            raise _as_step3_error(RpcError.of(error), address) from error
    if json_output:
        print_json(answer.to_json())
    else:
        typer.echo()
        typer.secho(_usage_line(answer.finished), dim=True, err=True)


def _read_image(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidArgument(
            f"--image = {str(path)!r}: cannot be read ({error.strerror}); give the path of a PNG, "
            "JPEG, WebP, GIF or BMP file",
            reason="IMAGE_UNREADABLE",
            field="--image",
        ) from error


def _shown(event: chat_pb2.StreamGenerateResponse, answer: Answer) -> Iterator[str]:
    """What the terminal shows of an event: the thinking dimmed, a blank line, the answer."""
    delta = event.delta
    if delta.reasoning:
        yield typer.style(delta.reasoning, dim=True)
    if delta.content:
        if answer.reasoning and answer.content == delta.content:
            yield "\n\n"
        yield delta.content
    if delta.HasField("tool_call"):
        yield f"\n{delta.tool_call.name}({delta.tool_call.arguments_json})"


def _usage_line(finished: chat_pb2.Finished) -> str:
    usage, timings = finished.usage, finished.timings
    return (
        f"{usage.prompt_tokens} prompt tokens ({usage.image_tokens} of images), "
        f"{usage.completion_tokens} answer tokens ({usage.reasoning_tokens} of thinking), "
        f"first after {timings.time_to_first_token_ms:.0f} ms, "
        f"{timings.tokens_per_second:.1f} tokens/s, {finish_word(finished.finish_reason)}"
    )


def _as_step3_error(error: RpcError, address: str) -> Step3Error:
    unreachable = error.code is grpc.StatusCode.UNAVAILABLE and error.reason == error.code.name
    if unreachable:
        return Unavailable(
            f"no gateway answers at {address}: start it with ./step3 up, or set "
            "STEP3_ADDRESS_GATEWAY to where it runs",
            reason="GATEWAY_UNREACHABLE",
        )
    kinds = {kind.code: kind for kind in Step3Error.__subclasses__()}
    return kinds.get(error.code.name, Step3Error)(
        error.message, reason=error.reason, field=error.field, metadata=error.metadata
    )
