"""Which transport joins two processes, and the way to open each by name."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Protocol

from shared.dataplane import inproc, shm, tcp
from shared.dataplane.doorbell import Doorbell
from shared.dataplane.layout import Layout
from shared.dataplane.link import Link
from shared.errors import FailedPrecondition

# The fastest first.
TRANSPORTS = ("inproc", "shm", "unix", "tcp")

# Unlike a process id, not the same number in another container.
PROCESS_ID = secrets.token_hex(16)


class Listener(Protocol):
    """The FFN end of a link that waits for its attention end."""

    @property
    def endpoint(self) -> str:
        """What `connect` takes."""
        ...

    def accept(self, timeout_s: float) -> Link:
        """The link, once the other end has come; closes the listener."""
        ...

    def close(self) -> None:
        """Stop listening."""
        ...


def host_id() -> str:
    """Equal for processes that can share memory: the boot id of the running kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def candidates(wanted: str) -> tuple[str, ...]:
    """The transports to offer when the settings say `wanted`.

    Raises:
      FailedPrecondition: a transport by name that does not exist here; there is no silent second
        choice.
    """
    if wanted == "auto":
        return TRANSPORTS
    if wanted not in TRANSPORTS:
        raise FailedPrecondition(
            f"transport = {wanted!r}: not available here; take auto, {' or '.join(TRANSPORTS)}",
            reason="TRANSPORT_UNAVAILABLE",
            field="transport",
        )
    return (wanted,)


def obstacle(transport: str, peer_host_id: str, peer_process_id: str) -> str | None:
    """Why `transport` cannot reach the peer from here, or None when it can."""
    if transport == "inproc":
        same = peer_process_id == PROCESS_ID
        return None if same else "inproc joins ends of one process, and these are two"
    if transport in ("shm", "unix"):
        same = peer_host_id == host_id()
        return None if same else f"{transport} joins processes of one host, and these run on two"
    if transport == "tcp":
        return None
    return f"{transport} is not known to this FFN"


def listen(
    transport: str,
    layout: Layout,
    bell: Doorbell,
    directory: Path,
    *,
    epoch: int,
    peer: str,
    host: str = "127.0.0.1",
) -> Listener:
    """The FFN end of a new link over `transport`.

    See `shm.ShmListener` for the arguments; `host` is the address that tcp listens on.
    """
    if transport == "inproc":
        return inproc.InprocListener(layout, bell, epoch=epoch, peer=peer)
    if transport == "shm":
        return shm.ShmListener(layout, bell, directory, epoch=epoch, peer=peer)
    assert transport in ("unix", "tcp")
    place = directory if transport == "unix" else host
    return tcp.StreamListener(layout, bell, place, epoch=epoch, peer=peer)


def connect(
    transport: str, endpoint: str, layout: Layout, bell: Doorbell, *, peer: str, timeout_s: float
) -> tuple[Link, int]:
    """The attention end of a link, and the session's epoch; see `shm.connect`."""
    if transport == "inproc":
        return inproc.connect(endpoint, layout, bell, peer=peer)
    if transport == "shm":
        return shm.connect(endpoint, layout, bell, peer=peer, timeout_s=timeout_s)
    if transport in ("unix", "tcp"):
        return tcp.connect(
            endpoint, layout, bell, transport=transport, peer=peer, timeout_s=timeout_s
        )
    raise FailedPrecondition(
        f"{peer} chose transport {transport!r}, which was not offered",
        reason="TRANSPORT_UNAVAILABLE",
    )
