"""Stands in for any gRPC service of step3: health, server info and, as the gateway, scripted chat.

Run as `fake_service.py NAME [--index I]`, with the settings of the real one.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from step3.v1 import chat_pb2, chat_pb2_grpc, common_pb2, info_pb2, info_pb2_grpc

from shared.errors import InvalidArgument
from shared.rpc.status import to_status
from shared.settings import settings

NAME = sys.argv[1]
INDEX = int(sys.argv[sys.argv.index("--index") + 1]) if "--index" in sys.argv else 0


class Info(info_pb2_grpc.InfoServiceServicer):
    def GetServerInfo(
        self, request: info_pb2.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> info_pb2.GetServerInfoResponse:
        config = settings()
        capabilities = {"model": config.model.name, "transport": config.transport}
        if NAME == "ffn":
            capabilities["shard"] = f"{INDEX}/{config.ffn.shards}"
        return info_pb2.GetServerInfoResponse(service=NAME, capabilities=capabilities)


class Chat(chat_pb2_grpc.ChatServiceServicer):
    def StreamGenerate(
        self, request: chat_pb2.StreamGenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[chat_pb2.StreamGenerateResponse]:
        event = chat_pb2.StreamGenerateResponse
        parts = request.request.messages[0].parts
        text = parts[-1].text
        if not text:
            error = InvalidArgument(
                "messages[0]: is empty; write something", reason="EMPTY", field="messages[0]"
            )
            context.abort_with_status(rpc_status.to_status(to_status(error, "gateway")))
        yield event(started=chat_pb2.Started(request_id="r1", model="fake", prompt_tokens=5))
        image_bytes = sum(len(part.image.data) for part in parts[:-1])
        sampling = request.request.sampling
        for piece in ("think ", f"of {text}"):
            yield event(delta=chat_pb2.Delta(reasoning=piece))
        for piece in ("heard ", f"{text}, {image_bytes} bytes, seed {sampling.seed}"):
            yield event(delta=chat_pb2.Delta(content=piece))
        yield event(
            finished=chat_pb2.Finished(
                finish_reason=common_pb2.FINISH_REASON_STOP,
                usage=common_pb2.Usage(prompt_tokens=5, completion_tokens=7, reasoning_tokens=3),
                timings=common_pb2.Timings(total_ms=12.5, tokens_per_second=100),
            )
        )


def main() -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    info_pb2_grpc.add_InfoServiceServicer_to_server(Info(), server)
    if NAME == "gateway":
        chat_pb2_grpc.add_ChatServiceServicer_to_server(Chat(), server)
    server.add_insecure_port(f"{settings().host}:{settings().port(NAME, INDEX)}")
    server.start()
    sys.stderr.write(f"{NAME} {INDEX} listens\n")
    stop.wait()
    server.stop(0)


main()
