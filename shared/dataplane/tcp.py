"""Both ends on hosts that reach each other by TCP, or on one host by a unix-domain socket.

The FFN end listens for one attention end, which must show the token of its endpoint, known from
the answer to OpenChannel. Version and dimensions are compared; after that the connection carries
messages only (stream.py). The endpoint is "host:port/token" or "path/token".
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import socket
import struct
import time
from pathlib import Path

from shared.dataplane.doorbell import Doorbell
from shared.dataplane.errors import ChannelTimeout, PeerLost, ProtocolError
from shared.dataplane.handshake import greeting, refusal
from shared.dataplane.host_watch import HostWatch
from shared.dataplane.layout import Layout
from shared.dataplane.stream import StreamLink
from shared.dataplane.unix_names import short_path
from shared.errors import FailedPrecondition

_MAX_GREETING_BYTES = 4096
# A connection that does not greet holds up the others for no longer than this.
_GREETING_S = 1.0
_SEND_BUFFER_BYTES = 4 * 2**20
_EVERYWHERE = ("0.0.0.0", "[::]")


class StreamListener:
    """The FFN end, waiting for one attention end.

    Args:
      layout: what the connecting end must have, too.
      bell: the FFN end's bell.
      place: the host to listen on, or the private directory in which a unix socket is made.
      epoch: of the session; every message carries it.
      peer: name of the attention end, for errors.
    """

    def __init__(
        self, layout: Layout, bell: Doorbell, place: str | Path, *, epoch: int, peer: str
    ) -> None:
        self._layout = layout
        self._bell = bell
        self._epoch = epoch
        self._transport = "unix" if isinstance(place, Path) else "tcp"
        self._peer = peer
        self._token = secrets.token_hex(16)
        self._path: Path | None = None
        if isinstance(place, Path):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path = place / f"dp-{secrets.token_hex(16)}.sock"
            self._socket = socket.socket(socket.AF_UNIX)
        else:
            family = socket.AF_INET6 if ":" in place else socket.AF_INET
            self._socket = socket.socket(family)
        try:
            if self._path is not None:
                with short_path(self._path) as path:
                    self._socket.bind(path)
                    self._path.chmod(0o600)
                address = str(self._path)
            else:
                self._socket.bind((str(place).strip("[]"), 0))
                address = f"{place}:{self._socket.getsockname()[1]}"
            self._socket.listen(8)
        except OSError:
            self.close()
            raise
        self.endpoint = f"{address}/{self._token}"

    def accept(self, timeout_s: float) -> StreamLink:
        """Wait for the attention end; closes the listener.

        Whoever does not know the token is hung up on, and the wait goes on.

        Raises:
          ChannelTimeout: nobody came who knows the token.
          FailedPrecondition: the other end does not fit; it was told why.
          PeerLost: the other end vanished during the handshake.
        """
        deadline = time.monotonic() + timeout_s
        try:
            while (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                try:
                    connection, _ = self._socket.accept()
                except TimeoutError:
                    break
                try:
                    link = self._welcome(connection, min(_GREETING_S, left))
                except BaseException:
                    connection.close()
                    raise
                if link is not None:
                    return link
                connection.close()
        finally:
            self.close()
        raise ChannelTimeout(
            f"{self._peer} ({self._transport}): did not connect within {timeout_s:.1f} s"
        )

    def _welcome(self, connection: socket.socket, timeout_s: float) -> StreamLink | None:
        """The link, or None for a stranger."""
        who = f"{self._peer} ({self._transport})"
        deadline = time.monotonic() + timeout_s
        try:
            hello = _receive(connection, deadline, who)
        except (ChannelTimeout, PeerLost, ProtocolError):
            return None
        if not hmac.compare_digest(str(hello.get("token")).encode(), self._token.encode()):
            return None
        if why := refusal(hello, self._layout):
            _send(connection, {"refused": why}, deadline, who)
            raise FailedPrecondition(f"{who}: {why}", reason="DATA_PLANE_MISMATCH")
        _send(connection, {"epoch": self._epoch}, deadline, who)
        return _link(
            connection, self._layout, self._epoch, self._transport, self._peer, self._bell, False
        )

    def close(self) -> None:
        """Stop listening and remove the socket's name."""
        self._socket.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def connect(
    endpoint: str, layout: Layout, bell: Doorbell, *, transport: str, peer: str, timeout_s: float
) -> tuple[StreamLink, int]:
    """The attention end of a link, and the session's epoch.

    Args:
      endpoint: `StreamListener.endpoint`.
      layout: must equal the listener's.
      bell: what the attention end sleeps on.
      transport: "tcp" or "unix".
      peer: name of the FFN end, for errors.
      timeout_s: for the whole handshake.

    Raises:
      PeerLost: nobody listens there, or it went away.
      ChannelTimeout: it did not answer.
      FailedPrecondition: it refused, in its words.
      ProtocolError: it answered with something else.
    """
    who = f"{peer} ({transport})"
    deadline = time.monotonic() + timeout_s
    address, _, token = endpoint.rpartition("/")
    connection = _dial(address, transport, timeout_s, who)
    try:
        hello = {"token": token, **greeting(layout)}
        _send(connection, hello, deadline, who)
        answer = _receive(connection, deadline, who)
        if "refused" in answer:
            raise FailedPrecondition(
                f"{who} refused the channel: {answer['refused']}", reason="DATA_PLANE_MISMATCH"
            )
        epoch = answer.get("epoch")
        if not isinstance(epoch, int):
            raise ProtocolError(f"{who}: answered the greeting with {answer}")
    except BaseException:
        connection.close()
        raise
    return _link(connection, layout, epoch, transport, peer, bell, True), epoch


def reachable(endpoint: str, host: str) -> str:
    """An endpoint that listens on all addresses, at the one by which `host` is known here."""
    for wildcard in _EVERYWHERE:
        if endpoint.startswith(f"{wildcard}:"):
            return host + endpoint.removeprefix(wildcard)
    return endpoint


def _dial(address: str, transport: str, timeout_s: float, who: str) -> socket.socket:
    connection = None
    try:
        if transport == "unix":
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(timeout_s)
            with short_path(Path(address)) as path:
                connection.connect(path)
        else:
            host, _, port = address.rpartition(":")
            connection = socket.create_connection((host.strip("[]"), int(port)), timeout_s)
    except (OSError, ValueError) as error:
        if connection is not None:
            connection.close()
        if isinstance(error, TimeoutError):
            raise ChannelTimeout(f"{who}: no connection within {timeout_s:.1f} s") from None
        raise PeerLost(f"{who}: cannot connect to {address}: {error}") from error
    return connection


def _link(
    connection: socket.socket,
    layout: Layout,
    epoch: int,
    transport: str,
    peer: str,
    bell: Doorbell,
    attention: bool,
) -> StreamLink:
    if transport == "tcp":
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A message is under way at once, with no further call; the kernel has a limit of its own.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    return StreamLink(
        connection,
        layout,
        epoch=epoch,
        attention=attention,
        transport=transport,
        peer=peer,
        bell=bell,
        host_watch=HostWatch(connection) if transport == "tcp" else None,
    )


def _send(connection: socket.socket, message: dict[str, object], deadline: float, who: str) -> None:
    data = json.dumps(message).encode()
    try:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        connection.sendall(struct.pack("<I", len(data)) + data)
    except TimeoutError:
        raise ChannelTimeout(f"{who}: did not take the greeting in time") from None
    except OSError as error:
        raise PeerLost(f"{who}: went away during the greeting: {error}") from error


def _receive(connection: socket.socket, deadline: float, who: str) -> dict[str, object]:
    (size,) = struct.unpack("<I", _receive_exactly(connection, 4, deadline, who))
    message = None
    if size <= _MAX_GREETING_BYTES:
        data = _receive_exactly(connection, size, deadline, who)
        with contextlib.suppress(ValueError):
            message = json.loads(data)
    if not isinstance(message, dict):
        raise ProtocolError(f"{who}: sent no greeting")
    return message


def _receive_exactly(connection: socket.socket, size: int, deadline: float, who: str) -> bytes:
    data = b""
    while len(data) < size:
        try:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            part = connection.recv(size - len(data))
        except TimeoutError:
            raise ChannelTimeout(f"{who}: did not greet in time") from None
        except OSError as error:
            raise PeerLost(f"{who}: went away during the greeting: {error}") from error
        if not part:
            raise PeerLost(f"{who}: went away during the greeting")
        data += part
    return data
