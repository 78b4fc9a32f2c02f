"""From a request on the wire to a checked one; every refusal names the field."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from step3.v1 import chat_pb2, common_pb2

from shared.errors import InvalidArgument, NotFound
from shared.settings import GatewaySettings, SamplingDefaults
from shared.text.conversation import ImagePart, Message, Part, Role, TextPart, Tool, ToolCall

_ROLES: dict[int, Role] = {
    chat_pb2.ROLE_SYSTEM: "system",
    chat_pb2.ROLE_USER: "user",
    chat_pb2.ROLE_ASSISTANT: "assistant",
    chat_pb2.ROLE_TOOL: "tool",
}
_MAX_REQUEST_ID_CHARS = 128
_MAX_STOP_TEXTS = 16
_MAX_STOP_CHARS = 256


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded image of the conversation, and the path of its field."""

    data: bytes
    field: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A request whose fields are in range; the conversation's order is the template's to check.

    Attributes:
      request_id: the client's, or a fresh one.
      messages: with an `ImagePart` for each of `pictures`, in order.
      pictures: the encoded images.
      tools: that the model may call.
      sampling: every field set but the seed, which stays unset without one; no stop texts.
      stop: texts that end the answer.
      priority: higher goes first.
    """

    request_id: str
    messages: Sequence[Message]
    pictures: Sequence[Picture]
    tools: Sequence[Tool]
    sampling: common_pb2.SamplingParams
    stop: Sequence[str]
    priority: int


def check_request(
    request: chat_pb2.GenerateRequest,
    *,
    model: str,
    limits: GatewaySettings,
    defaults: SamplingDefaults,
) -> ChatRequest:
    """The checked request.

    Args:
      request: as it came.
      model: the name of the served model.
      limits: on images.
      defaults: for sampling fields that are not set.

    Raises:
      NotFound: the model is not served.
      InvalidArgument: a field is out of range.
    """
    if request.model not in ("", model):
        raise NotFound(
            f"model: {request.model!r} is not served here; use {model!r} or leave it empty",
            reason="MODEL_NOT_FOUND",
            field="model",
        )
    pictures: list[Picture] = []
    messages = [
        _message(message, f"messages[{index}]", pictures)
        for index, message in enumerate(request.messages)
    ]
    _check_pictures(pictures, limits)
    return ChatRequest(
        request_id=_request_id(request.request_id),
        messages=messages,
        pictures=pictures,
        tools=[Tool(tool.name, tool.description, tool.parameters_json) for tool in request.tools],
        sampling=_sampling(request.sampling, defaults),
        stop=_stop(request.sampling.stop),
        priority=request.priority,
    )


def _request_id(request_id: str) -> str:
    if len(request_id) > _MAX_REQUEST_ID_CHARS or not request_id.isprintable():
        raise _invalid(
            "request_id", f"has to be printable and at most {_MAX_REQUEST_ID_CHARS} characters long"
        )
    return request_id or uuid.uuid4().hex


def _message(message: chat_pb2.Message, path: str, pictures: list[Picture]) -> Message:
    role = _ROLES.get(message.role)
    if role is None:
        raise _invalid(f"{path}.role", "is not set; use system, user, assistant or tool")
    return Message(
        role=role,
        parts=[
            _part(part, f"{path}.parts[{index}]", pictures)
            for index, part in enumerate(message.parts)
        ],
        tool_calls=[ToolCall(c.id, c.name, c.arguments_json) for c in message.tool_calls],
        tool_call_id=message.tool_call_id,
    )


def _part(part: chat_pb2.Part, path: str, pictures: list[Picture]) -> Part:
    match part.WhichOneof("part"):
        case "text":
            return TextPart(part.text)
        case "image":
            pictures.append(Picture(part.image.data, f"{path}.image"))
            return ImagePart()
        case _:
            raise _invalid(path, "is empty; set text or image")


def _check_pictures(pictures: Sequence[Picture], limits: GatewaySettings) -> None:
    if len(pictures) > limits.max_images:
        raise InvalidArgument(
            f"messages: has {len(pictures)} images, at most {limits.max_images} are taken; "
            "send fewer",
            reason="TOO_MANY_IMAGES",
            field="messages",
            metadata={"images": str(len(pictures)), "max_images": str(limits.max_images)},
        )
    for picture in pictures:
        size = len(picture.data)
        if not size:
            raise InvalidArgument(
                f"{picture.field}: is empty; send the bytes of a picture",
                reason="IMAGE_UNDECODABLE",
                field=picture.field,
            )
        if size > limits.max_image_bytes:
            raise InvalidArgument(
                f"{picture.field}: has {size} bytes, at most {limits.max_image_bytes} are taken; "
                "make it smaller",
                reason="IMAGE_TOO_LARGE",
                field=picture.field,
                metadata={"bytes": str(size), "max_bytes": str(limits.max_image_bytes)},
            )


def _sampling(
    given: common_pb2.SamplingParams, defaults: SamplingDefaults
) -> common_pb2.SamplingParams:
    sampling = common_pb2.SamplingParams(**defaults.model_dump())
    sampling.MergeFrom(given)
    del sampling.stop[:]
    # Written so that NaN is out of range, too.
    _require(0 <= sampling.temperature <= 100, given, "temperature", "from 0 to 100")
    _require(0 < sampling.top_p <= 1, given, "top_p", "above 0 and at most 1")
    _require(sampling.top_k >= 0, given, "top_k", "at least 1, or 0 for the whole vocabulary")
    _require(0 <= sampling.min_p <= 1, given, "min_p", "from 0 to 1")
    _require(sampling.max_tokens >= 1, given, "max_tokens", "at least 1")
    return sampling


def _require(condition: bool, given: common_pb2.SamplingParams, name: str, wanted: str) -> None:
    if not condition:
        raise _invalid(f"sampling.{name}", f"is {getattr(given, name):g}; it has to be {wanted}")


def _stop(texts: Iterable[str]) -> list[str]:
    texts = list(texts)
    if len(texts) > _MAX_STOP_TEXTS:
        raise _invalid(
            "sampling.stop", f"has {len(texts)} texts; at most {_MAX_STOP_TEXTS} are taken"
        )
    for index, text in enumerate(texts):
        if not 0 < len(text) <= _MAX_STOP_CHARS:
            raise _invalid(
                f"sampling.stop[{index}]",
                f"has {len(text)} characters; it has to have 1 to {_MAX_STOP_CHARS}",
            )
    return texts


def _invalid(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {problem}", reason="INVALID_FIELD", field=field)
