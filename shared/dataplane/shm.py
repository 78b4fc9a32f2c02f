"""Both ends on one host: one memfd for each channel, handed over on a unix socket.

The FFN end listens on a socket with an unguessable name, attention connects and sends its bell,
and gets back the memory and the FFN's bell (SCM_RIGHTS). After that the socket only stands for
the peer's life. The memory has no name: it is gone with the last process that maps it, however
that process ended. It is sealed against shrinking, so a peer cannot make an access fault.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import secrets
import socket
import time
from pathlib import Path

from shared.dataplane.doorbell import Doorbell
from shared.dataplane.errors import ChannelTimeout, PeerLost, ProtocolError
from shared.dataplane.handshake import greeting, refusal
from shared.dataplane.layout import Layout
from shared.dataplane.mapped import MappedLink, mapped_bytes, require_store_order
from shared.dataplane.unix_names import credentials, short_path
from shared.errors import FailedPrecondition

_MAX_HELLO_BYTES = 4096
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class ShmListener:
    """The FFN end, waiting for one attention end.

    Args:
      layout: what the connecting end must have, too.
      bell: the FFN end's bell.
      directory: where the socket is made while the listener waits; private to the user.
      epoch: of the session; every message carries it.
      peer: name of the attention end, for errors.
    """

    def __init__(
        self, layout: Layout, bell: Doorbell, directory: Path, *, epoch: int, peer: str
    ) -> None:
        require_store_order()
        self._layout = layout
        self._bell = bell
        self._epoch = epoch
        self._peer = peer
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = directory / f"dp-{secrets.token_hex(16)}.sock"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with short_path(self._path) as path:
                self._socket.bind(path)
                self._path.chmod(0o600)
            self._socket.listen(1)
        except OSError:
            self.close()
            raise

    @property
    def endpoint(self) -> str:
        """What `connect` takes."""
        return str(self._path)

    def accept(self, timeout_s: float) -> MappedLink:
        """Wait for the attention end and hand it the memory; closes the listener.

        Raises:
          ChannelTimeout: nobody came.
          FailedPrecondition: the other end does not fit; it was told why.
          PeerLost: the other end vanished during the handshake.
        """
        deadline = time.monotonic() + timeout_s
        try:
            self._socket.settimeout(timeout_s)
            connection, _ = self._socket.accept()
        except TimeoutError:
            raise ChannelTimeout(
                f"{self._peer} (shm): did not connect within {timeout_s:.1f} s"
            ) from None
        finally:
            self.close()
        try:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            return self._welcome(connection)
        except BaseException:
            connection.close()
            raise

    def _welcome(self, connection: socket.socket) -> MappedLink:
        hello, fds = _receive(connection, 1, self._peer)
        try:
            refusal = self._refusal(connection, hello, len(fds))
            if refusal:
                _send(connection, {"refused": refusal}, [], self._peer)
                raise FailedPrecondition(
                    f"{self._peer} (shm): {refusal}", reason="DATA_PLANE_MISMATCH"
                )
            memory_fd = os.memfd_create("step3-channel", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            fds.append(memory_fd)
            size = mapped_bytes(self._layout)
            os.ftruncate(memory_fd, size)
            fcntl.fcntl(memory_fd, fcntl.F_ADD_SEALS, _SEALS)
            memory = mmap.mmap(memory_fd, size)
            _send(connection, {"epoch": self._epoch}, [memory_fd, self._bell.fd], self._peer)
        except BaseException:
            _close_all(fds)
            raise
        os.close(memory_fd)
        return MappedLink(
            memory,
            self._layout,
            attention=False,
            transport="shm",
            peer=self._peer,
            bell=self._bell,
            peer_bell_fd=fds[0],
            hangup=connection,
            pidfd=_open_pidfd(connection),
        )

    def _refusal(
        self, connection: socket.socket, hello: dict[str, object], n_fds: int
    ) -> str | None:
        _, uid = credentials(connection)
        if uid != os.getuid():
            return f"user id {uid} is not the FFN's, {os.getuid()}: run both as the same user"
        if why := refusal(hello, self._layout):
            return why
        if n_fds != 1:
            return f"{n_fds} descriptors in the greeting, expected 1"
        return None

    def close(self) -> None:
        """Stop listening and remove the socket's name."""
        self._socket.close()
        self._path.unlink(missing_ok=True)


def connect(
    endpoint: str, layout: Layout, bell: Doorbell, *, peer: str, timeout_s: float
) -> tuple[MappedLink, int]:
    """The attention end of a link, and the session's epoch.

    Args:
      endpoint: `ShmListener.endpoint`.
      layout: must equal the listener's.
      bell: what the attention end sleeps on.
      peer: name of the FFN end, for errors.
      timeout_s: for the whole handshake.

    Raises:
      PeerLost: nobody listens there, or it went away.
      ChannelTimeout: it did not answer.
      FailedPrecondition: it refused, in its words.
      ProtocolError: what it handed over is not a channel of this layout.
    """
    require_store_order()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fds: list[int] = []
    try:
        connection.settimeout(timeout_s)
        try:
            with short_path(Path(endpoint)) as path:
                connection.connect(path)
        except TimeoutError:
            raise ChannelTimeout(f"{peer} (shm): no connection within {timeout_s:.1f} s") from None
        except OSError as error:
            raise PeerLost(f"{peer} (shm): cannot connect to {endpoint}: {error}") from error
        _send(connection, greeting(layout), [bell.fd], peer)
        answer, fds = _receive(connection, 2, peer)
        if "refused" in answer:
            raise FailedPrecondition(
                f"{peer} (shm) refused the channel: {answer['refused']}",
                reason="DATA_PLANE_MISMATCH",
            )
        epoch, size = answer.get("epoch"), mapped_bytes(layout)
        if not isinstance(epoch, int) or len(fds) != 2:
            raise ProtocolError(f"{peer} (shm): answered the greeting with {answer}")
        if os.fstat(fds[0]).st_size != size:
            raise ProtocolError(
                f"{peer} (shm): handed over {os.fstat(fds[0]).st_size} bytes, expected {size}"
            )
        memory = mmap.mmap(fds[0], size)
        pidfd = _open_pidfd(connection)
    except BaseException:
        connection.close()
        _close_all(fds)
        raise
    os.close(fds[0])
    link = MappedLink(
        memory,
        layout,
        attention=True,
        transport="shm",
        peer=peer,
        bell=bell,
        peer_bell_fd=fds[1],
        hangup=connection,
        pidfd=pidfd,
    )
    return link, epoch


def _send(connection: socket.socket, message: dict[str, object], fds: list[int], peer: str) -> None:
    try:
        socket.send_fds(connection, [json.dumps(message).encode()], fds, socket.MSG_NOSIGNAL)
    except TimeoutError:
        raise ChannelTimeout(f"{peer} (shm): did not take the greeting in time") from None
    except OSError as error:
        raise PeerLost(f"{peer} (shm): went away during the greeting: {error}") from error


def _receive(
    connection: socket.socket, max_fds: int, peer: str
) -> tuple[dict[str, object], list[int]]:
    try:
        data, fds, _, _ = socket.recv_fds(
            connection, _MAX_HELLO_BYTES, max_fds, socket.MSG_CMSG_CLOEXEC
        )
    except TimeoutError:
        raise ChannelTimeout(f"{peer} (shm): did not greet in time") from None
    except OSError as error:
        raise PeerLost(f"{peer} (shm): went away during the greeting: {error}") from error
    if not data:
        raise PeerLost(f"{peer} (shm): went away during the greeting")
    try:
        message = json.loads(data)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        _close_all(fds)
        raise ProtocolError(f"{peer} (shm): sent {data[:40]!r} for a greeting")
    return message, fds


def _open_pidfd(connection: socket.socket) -> int | None:
    # A forked child of the peer could keep the socket open after the peer's death; the pidfd
    # tells it anyway. Where it is not to be had (another pid namespace), the socket is enough.
    pid, _ = credentials(connection)
    try:
        return os.pidfd_open(pid) if pid > 0 else None
    except OSError:
        return None


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
