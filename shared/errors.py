"""Errors that a caller can act on; shared.rpc turns them into gRPC statuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class Step3Error(Exception):
    """An expected failure: one clear sentence, and what a program needs to react.

    Args:
      message: one sentence with the field, the value and what to do.
      reason: UPPER_SNAKE, stable, documented in docs/api.md.
      field: the path of the offending request field, for bad input.
      metadata: numbers and names as text.
      retry_after_s: when trying again makes sense.
    """

    # The name of a grpc.StatusCode.
    code: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        field: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.field = field
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s


class InvalidArgument(Step3Error):
    code = "INVALID_ARGUMENT"


class NotFound(Step3Error):
    code = "NOT_FOUND"


class AlreadyExists(Step3Error):
    code = "ALREADY_EXISTS"


class FailedPrecondition(Step3Error):
    code = "FAILED_PRECONDITION"


class ResourceExhausted(Step3Error):
    code = "RESOURCE_EXHAUSTED"


class Unavailable(Step3Error):
    """The caller may try again: starting, draining, or a peer was lost before the first token."""

    code = "UNAVAILABLE"


class Aborted(Step3Error):
    """A peer was lost after the first token."""

    code = "ABORTED"


class DeadlineExceeded(Step3Error):
    code = "DEADLINE_EXCEEDED"


class Unauthenticated(Step3Error):
    code = "UNAUTHENTICATED"
