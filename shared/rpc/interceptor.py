"""One place where exceptions become statuses: services raise, they never abort."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc
from grpc_status import rpc_status

from shared.errors import Step3Error, Unavailable
from shared.rpc.status import to_status

logger = logging.getLogger(__name__)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class InternalError(Step3Error):
    """A bug. The text is fixed: an exception's own may hold what a caller must not see."""

    def __init__(self) -> None:
        incident = uuid.uuid4().hex[:12]
        super().__init__(
            f"internal error; the service's log has it as incident {incident}",
            reason="INTERNAL",
            metadata={"incident": incident},
        )


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns exceptions of this project's services into rich statuses.

    Methods are coroutines or asynchronous generators. Until `starting` is cleared, every call is
    refused as UNAVAILABLE. gRPC's own services (health, reflection) pass untouched.
    """

    def __init__(self, domain: str) -> None:
        self._domain = domain
        self.starting = True

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith("/grpc."):
            # None becomes UNIMPLEMENTED.
            return handler
        open_while_starting = method.startswith("/step3.v1.InfoService/")
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streamed(handler.unary_stream, open_while_starting),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(handler.unary_unary, open_while_starting),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _unary(self, behaviour: Any, open_while_starting: bool) -> Any:
        async def call(request: Any, context: Context) -> Any:
            try:
                if self.starting and not open_while_starting:
                    raise self._not_started()
                return await behaviour(request, context)
            except Exception as error:
                await self._abort(error, context)

        return call

    def _streamed(self, behaviour: Any, open_while_starting: bool) -> Any:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                if self.starting and not open_while_starting:
                    raise self._not_started()
                async for response in behaviour(request, context):
                    yield response
            except Exception as error:
                await self._abort(error, context)

        return call

    def _not_started(self) -> Unavailable:
        return Unavailable(
            f"{self._domain} is starting; try again in a moment",
            reason="STARTING",
            retry_after_s=1.0,
        )

    async def _abort(self, error: Exception, context: Context) -> NoReturn:
        if not isinstance(error, Step3Error):
            internal = InternalError()
            logger.error("incident %s", internal.metadata["incident"], exc_info=error)
            error = internal
        else:
            logger.info("refused: %s %s: %s", error.code, error.reason, error.message)
        await context.abort_with_status(rpc_status.to_status(to_status(error, self._domain)))
