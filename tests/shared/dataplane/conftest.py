from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.dataplane import transports
from shared.dataplane.channel import ReplyChannel, RequestChannel
from shared.dataplane.doorbell import Doorbell
from shared.dataplane.layout import Layout

EPOCH = 7


def lateness(call: Callable[[], object], error: type[Exception], deadline_s: float) -> float:
    """How long after its deadline `call` raises `error`, in seconds.

    The best of a few tries, since a busy machine may run anything late; never early.
    """
    late = []
    for _ in range(5):
        began = time.monotonic()
        with pytest.raises(error):
            call()
        late.append(time.monotonic() - began - deadline_s)
        assert late[-1] >= 0
        if late[-1] < 0.05:
            break
    return min(late)


class Connector:
    """Opens channels with both ends in this process."""

    def __init__(self, transport: str, directory: Path) -> None:
        self._transport = transport
        self._directory = directory
        self._channels: list[RequestChannel | ReplyChannel] = []
        self._bells: list[Doorbell] = []

    def __call__(
        self,
        layout: Layout,
        *,
        attention_bell: Doorbell | None = None,
        ffn_bell: Doorbell | None = None,
        shard_rank: int = 0,
    ) -> tuple[RequestChannel, ReplyChannel]:
        attention_bell = attention_bell or self._new_bell()
        ffn_bell = ffn_bell or self._new_bell()
        listener = transports.listen(
            self._transport, layout, ffn_bell, self._directory, epoch=EPOCH, peer="attention 0"
        )
        accepted: list[ReplyChannel] = []

        def accept() -> None:
            accepted.append(ReplyChannel(listener.accept(5.0), layout, EPOCH, shard_rank))

        thread = threading.Thread(target=accept)
        thread.start()
        link, epoch = transports.connect(
            self._transport,
            listener.endpoint,
            layout,
            attention_bell,
            peer=f"shard {shard_rank}",
            timeout_s=5.0,
        )
        thread.join()
        attention = RequestChannel(link, layout, epoch, shard_rank)
        self._channels += [attention, accepted[0]]
        return attention, accepted[0]

    def _new_bell(self) -> Doorbell:
        self._bells.append(Doorbell())
        return self._bells[-1]

    def forget(self) -> None:
        """Close everything that was opened and keep no reference to it."""
        for channel in self._channels:
            channel.close()
        for bell in self._bells:
            bell.close()
        self._channels, self._bells = [], []


@pytest.fixture(params=transports.TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(name="lateness")
def lateness_fixture() -> Callable[..., float]:
    return lateness


@pytest.fixture
def connect(transport: str, tmp_path: Path) -> Iterator[Connector]:
    connector = Connector(transport, tmp_path)
    yield connector
    connector.forget()


class Peer:
    """Another process; see peer_process.py."""

    def __init__(self, pid: int, pipe: Path) -> None:
        self.pid = pid
        self._output = pipe.open()

    def line(self) -> str:
        text = self._output.readline().strip()
        assert text, "the peer process ended early"
        return text

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._output.close()


@pytest.fixture(scope="session")
def nursery() -> Iterator[subprocess.Popen[str]]:
    script = Path(__file__).with_name("peer_process.py")
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    ) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def start_peer(
    nursery: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Peer]]:
    peers: list[Peer] = []

    def start(role: str, **options: object) -> Peer:
        pipe = tmp_path_factory.mktemp("peer") / "output"
        os.mkfifo(pipe)
        order = {"role": role, "options": options, "pipe": str(pipe)}
        nursery.stdin.write(json.dumps(order) + "\n")
        peers.append(Peer(int(nursery.stdout.readline()), pipe))
        return peers[-1]

    yield start
    for peer in peers:
        peer.end()
