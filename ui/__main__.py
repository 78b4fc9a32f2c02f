"""`python -m ui`: serve the console until a signal ends it."""

from __future__ import annotations

import signal
import socket
import sys

import uvicorn

from shared.settings import settings
from ui.app import build

# Pages hold an event stream open; a server that ends does not wait for them.
SHUTDOWN_S = 2


def main() -> int:
    config = settings()
    host, port = config.host, config.port("ui")
    try:
        listener = socket.create_server((host, port), backlog=128)
    except OSError as error:
        sys.stderr.write(
            f"ui: {host}:{port} cannot be listened on ({error.strerror}): end the process that has "
            "it, or set STEP3_PORT_BASE to another value\n"
        )
        return 1
    server = uvicorn.Server(
        uvicorn.Config(
            build(config), log_level="warning", timeout_graceful_shutdown=SHUTDOWN_S, lifespan="on"
        )
    )
    sys.stderr.write(f"ui: http://{host}:{port}\n")
    # uvicorn raises the signal that ended it once more when it has drained; that is no failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    server.run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
