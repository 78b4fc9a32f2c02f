"""Takes the network down under a tcp channel and prints how long the attention end needs to see.

Run it in a network namespace of its own, as root there.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import threading
import time

from shared.dataplane import tcp
from shared.dataplane.channel import RequestChannel
from shared.dataplane.doorbell import Doorbell
from shared.dataplane.errors import PeerLost
from shared.dataplane.layout import Layout

SIOCSIFFLAGS, IFF_UP = 0x8914, 1
LAYOUT = Layout(hidden=16, top_k=2, max_tokens=8)


def loopback(up: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", IFF_UP if up else 0)
        fcntl.ioctl(control, SIOCSIFFLAGS, request)


def main(state: str) -> None:
    loopback(True)
    bell, other = Doorbell(), Doorbell()
    listener = tcp.StreamListener(LAYOUT, other, "127.0.0.1", epoch=1, peer="attention 0")
    links = []
    thread = threading.Thread(target=lambda: links.append(listener.accept(5.0)))
    thread.start()
    endpoint = listener.endpoint
    link, epoch = tcp.connect(endpoint, LAYOUT, bell, transport="tcp", peer="ffn", timeout_s=5.0)
    thread.join()
    channel = RequestChannel(link, LAYOUT, epoch)
    if state == "posted":
        slot = channel.acquire(8, 1.0)
        channel.post(slot, step=1, layer=0, micro_batch=0, routed=False)
    died = []

    def die() -> None:
        died.append(time.monotonic())
        loopback(False)

    threading.Timer(0.3, die).start()
    try:
        channel.recv(5.0)
    except PeerLost as error:
        sys.stdout.write(f"{time.monotonic() - died[0]:.3f} {error.message}\n")


if __name__ == "__main__":
    main(sys.argv[1])
