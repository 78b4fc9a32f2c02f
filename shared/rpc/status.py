"""Errors on the wire: `Step3Error` to `google.rpc.Status` on the server, and back on the client."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from shared.errors import Step3Error


def to_status(error: Step3Error, domain: str) -> status_pb2.Status:
    """The rich status of `error`. `domain` is the name of the service that failed."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=domain, metadata=error.metadata)
    details = [_packed(info)]
    if error.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.message, reason=error.reason
        )
        details.append(_packed(error_details_pb2.BadRequest(field_violations=[violation])))
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    code: int = grpc.StatusCode[error.code].value[0]
    return status_pb2.Status(code=code, message=error.message, details=details)


class RpcError(Exception):
    """A call that ended with a status other than OK, as the client reads it.

    Attributes:
      code: the status code.
      reason: ErrorInfo.reason; the name of the code when the server sent no details, as when the
        connection failed.
      message: one sentence for people.
      field: the path of the offending request field, or None.
      metadata: numbers and names as text.
      retry_after_s: when the server says that trying again makes sense, or None.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        field: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.field = field
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s

    @classmethod
    def of(cls, error: grpc.RpcError) -> RpcError:
        """Read what a stub raised, asynchronous or not."""
        assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
        code, message = error.code(), error.details() or error.code().name
        info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        status = rpc_status.from_call(error)
        for detail in status.details if status is not None else ():
            # Unpack fills the one message whose type the detail has.
            for message_type in (info, bad_request, retry):
                detail.Unpack(message_type)
        violations = bad_request.field_violations
        delay = retry.retry_delay
        return cls(
            code,
            info.reason or code.name,
            message,
            field=violations[0].field if violations else None,
            metadata=dict(info.metadata),
            retry_after_s=delay.ToMilliseconds() / 1000 if retry.HasField("retry_delay") else None,
        )


def _packed(
    detail: error_details_pb2.ErrorInfo
    | error_details_pb2.BadRequest
    | error_details_pb2.RetryInfo,
) -> Any:
    result = Any()
    result.Pack(detail)
    return result
