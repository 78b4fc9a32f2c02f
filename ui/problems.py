"""What went wrong, in words for the person at the page: a title, one sentence, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from shared.rpc.client import RpcError


@dataclass(frozen=True, slots=True)
class Problem:
    title: str
    detail: str
    advice: str


def describe(error: RpcError, address: str) -> Problem:
    """A gateway's error for the page. The gateway's own sentence is kept where it has one."""
    said, wait_s = error.message, error.retry_after_s or 0
    again = f"Try again in {wait_s:.0f} s." if wait_s >= 1 else "Try again in a moment."
    match error.code:
        case grpc.StatusCode.UNAVAILABLE if error.reason != error.code.name:
            return Problem("The model is not ready", said, again)
        case grpc.StatusCode.UNAVAILABLE:
            # Without a reason it is the channel that speaks, in words of sockets and addresses.
            return Problem(
                "The gateway cannot be reached",
                f"Nothing answers at {address}.",
                "Start the services with ./step3 up, then press Retry.",
            )
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Problem("Too many requests at once", said, again)
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.FAILED_PRECONDITION:
            return Problem(*_bad_request(error.reason, said))
        case grpc.StatusCode.NOT_FOUND:
            return Problem("There is no such model", said, "See ./step3 status for what is served.")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return Problem(
                "The answer took too long",
                "It was not complete when its time was up.",
                "Ask for fewer tokens in the settings, or press Retry.",
            )
        case grpc.StatusCode.ABORTED:
            return Problem(
                "The answer was cut off",
                said,
                "What arrived is kept. Press Retry for a new one.",
            )
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return Problem("The gateway refused this console", said, "Check the console's API key.")
        case grpc.StatusCode.CANCELLED:
            return Problem("The answer was cancelled", "The gateway ended it.", "Press Retry.")
    return Problem(
        "The gateway failed",
        said,
        "Press Retry; if it happens again, look at ./step3 logs gateway.",
    )


def _bad_request(reason: str, said: str) -> tuple[str, str, str]:
    if reason.startswith("IMAGE_"):
        advice = "Attach a smaller or another picture: PNG, JPEG, WebP, GIF or BMP."
        return "An image cannot be used", said, advice
    if reason == "TOO_MANY_IMAGES":
        return "There are too many images", said, "Send fewer at once, or start a new chat."
    if reason == "PROMPT_TOO_LONG":
        advice = "Start a new chat, shorten the message, or send fewer images."
        return "The conversation is too long for the model", said, advice
    return "The request cannot be answered as it is", said, "Change the message or the settings."
