"""The other processes of the tests.

Run as a script, it reads a line of JSON for each process to start, forks it and prints its id;
so the libraries are loaded once for all tests. What a process says goes to a pipe of its own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

from shared.dataplane import transports
from shared.dataplane.channel import ReplyChannel, RequestChannel
from shared.dataplane.doorbell import Doorbell
from shared.dataplane.errors import ChannelTimeout
from shared.dataplane.layout import Layout

EPOCH = 7


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def shard(transport: str, directory: str, layout: dict[str, int], mode: str) -> None:
    """An FFN shard: "echo" answers with the doubled input, "silent" takes and never answers.

    "deaf" does not even look.
    """
    bell, dims = Doorbell(), Layout(**layout)
    listener = transports.listen(
        transport, dims, bell, Path(directory), epoch=EPOCH, peer="attention 0"
    )
    say(listener.endpoint)
    channel = ReplyChannel(listener.accept(30.0), dims, EPOCH)
    say("connected")
    if mode == "deaf":
        time.sleep(60)
    while True:
        try:
            request = channel.recv(1.0)
        except ChannelTimeout:
            continue
        if mode == "silent":
            say("received")
            continue
        torch.mul(request.hidden_TH, 2, out=request.answer_TH)
        channel.reply(request)


def attention(transport: str, endpoint: str, layout: dict[str, int], mode: str) -> None:
    """An attention instance: "idle" only connects, "posted" has one message in flight."""
    bell, dims = Doorbell(), Layout(**layout)
    link, epoch = transports.connect(
        transport, endpoint, dims, bell, peer="shard 0", timeout_s=30.0
    )
    channel = RequestChannel(link, dims, epoch)
    if mode == "posted":
        slot = channel.acquire(2, 1.0)
        slot.hidden_TH.fill_(1)
        channel.post(slot, step=1, layer=0, micro_batch=0, routed=False)
    say("connected")
    time.sleep(60)


def main() -> None:
    torch.set_num_threads(1)
    # Children are reaped by the kernel.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            with open(order["pipe"], "w") as sys.stdout:
                {"shard": shard, "attention": attention}[order["role"]](**order["options"])
            return
        say(str(pid))


if __name__ == "__main__":
    main()
