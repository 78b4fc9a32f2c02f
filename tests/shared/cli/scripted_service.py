"""A tiny service for the supervisor's tests: gRPC health on a port, and one bad habit."""

import argparse
import signal
import sys
import threading
import time
from concurrent import futures
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--starts", type=Path, help="one line for every start")
    parser.add_argument("--crashes", type=int, default=0, help="so many first runs end at once")
    parser.add_argument("--crash-after-s", type=float, default=0.2)
    parser.add_argument("--fail", help="ends with this sentence before it is ready")
    parser.add_argument("--ignore-sigterm", action="store_true")
    options = parser.parse_args()
    if options.fail:
        sys.exit(f"error: {options.fail}")
    starts = 1
    if options.starts:
        with options.starts.open("a") as file:
            file.write(f"{time.monotonic()}\n")
        starts = len(options.starts.read_text().splitlines())
    stop = threading.Event()
    handler = signal.SIG_IGN if options.ignore_sigterm else lambda *_: stop.set()
    signal.signal(signal.SIGTERM, handler)
    server = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"127.0.0.1:{options.port}")
    server.start()
    sys.stdout.write(f"listening on {options.port}\n")
    if starts <= options.crashes:
        stop.wait(options.crash_after_s)
        sys.exit(3)
    stop.wait(60)
    server.stop(0)


main()
