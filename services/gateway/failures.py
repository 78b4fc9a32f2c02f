"""What a failed inner call means to the gateway's caller."""

from __future__ import annotations

import logging
import time

import grpc

from services.gateway.validation import Picture
from shared.errors import (
    Aborted,
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    Step3Error,
    Unavailable,
)
from shared.rpc.client import RpcError

logger = logging.getLogger(__name__)

# The backend, or one that it needs, went away: another try may succeed.
_LOST = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.ABORTED,
        # Not the gateway's own cancel, which is seen before it gets here: a server that was ended.
        grpc.StatusCode.CANCELLED,
        # The backend's own waiting; the caller's deadline is looked at first.
        grpc.StatusCode.DEADLINE_EXCEEDED,
        # A connection that broke in the middle of a call.
        grpc.StatusCode.UNKNOWN,
    }
)


class Deadline:
    """The time until which a request has to be answered."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def remaining_s(self) -> float:
        """Seconds left for an inner call.

        Raises:
          DeadlineExceeded: none are.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise self.exceeded()
        return left

    def passed(self) -> bool:
        # Inner calls get exactly what is left, so theirs may end a moment early.
        return self._end - time.monotonic() < 0.01

    @staticmethod
    def exceeded() -> DeadlineExceeded:
        return DeadlineExceeded(
            "the deadline passed before the answer was complete; set a longer one or fewer tokens",
            reason="DEADLINE_EXCEEDED",
        )


def vision_failure(error: grpc.aio.AioRpcError, picture: Picture, deadline: Deadline) -> Exception:
    """The caller's view of a failed EncodeImage call for `picture`."""
    inner = RpcError.of(error)
    if inner.code == grpc.StatusCode.INVALID_ARGUMENT:
        problem = inner.message.removeprefix("image: ")
        return InvalidArgument(
            f"{picture.field}: {problem}",
            reason=inner.reason,
            field=picture.field,
            metadata=inner.metadata,
        )
    return _failure(inner, "vision", deadline)


def attention_failure(
    error: grpc.aio.AioRpcError, tokens_delivered: int, deadline: Deadline
) -> Exception:
    """The caller's view of a failed GenerateTokens call."""
    inner = RpcError.of(error)
    if inner.code == grpc.StatusCode.INVALID_ARGUMENT:
        field = inner.field or ""
        return InvalidArgument(
            inner.message,
            reason=inner.reason,
            # Prompt and features are made of the messages; sampling is passed on as it came.
            field=field if field.startswith("sampling") else "messages",
            metadata=inner.metadata,
        )
    return _failure(inner, "attention", deadline, tokens_delivered)


def _failure(
    inner: RpcError, backend: str, deadline: Deadline, tokens_delivered: int = 0
) -> Exception:
    if inner.code == grpc.StatusCode.DEADLINE_EXCEEDED and deadline.passed():
        return deadline.exceeded()
    logger.warning("%s failed: %s %s: %s", backend, inner.code.name, inner.reason, inner.message)
    if inner.code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return ResourceExhausted(
            inner.message,
            reason=inner.reason,
            metadata=inner.metadata,
            retry_after_s=inner.retry_after_s,
        )
    if inner.code in _LOST:
        return lost(backend, tokens_delivered)
    # A bug on either side: the server's base makes an incident of it.
    return inner


def lost(backend: str, tokens_delivered: int) -> Step3Error:
    """A backend that went away while it worked for the request."""
    if tokens_delivered:
        return Aborted(
            f"the {backend} service was lost after {tokens_delivered} tokens; "
            "send the request again for a whole answer",
            reason="BACKEND_LOST",
            metadata={"backend": backend, "tokens_delivered": str(tokens_delivered)},
        )
    return Unavailable(
        f"the {backend} service was lost before the first token; try again",
        reason="BACKEND_LOST",
        metadata={"backend": backend},
        retry_after_s=1.0,
    )
