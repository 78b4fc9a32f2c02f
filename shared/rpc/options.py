"""Channel arguments that a server and its clients must agree on."""

from __future__ import annotations

# Images and features travel whole; gRPC's own limit is 4 MiB.
MAX_MESSAGE_BYTES = 256 * 2**20

_KEEPALIVE_TIME_MS = 30_000
_KEEPALIVE_TIMEOUT_MS = 10_000

_SHARED: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", _KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]

SERVER_OPTIONS: list[tuple[str, int]] = [
    *_SHARED,
    # With port sharing, a second server on the port would start silently and take half the calls.
    ("grpc.so_reuseport", 0),
    # Otherwise the pings of a client that keeps to the time above are punished as a flood.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", _KEEPALIVE_TIME_MS // 2),
]

CLIENT_OPTIONS: list[tuple[str, int]] = [
    *_SHARED,
    # Services are named directly; a proxy of the environment must not see their calls.
    ("grpc.enable_http_proxy", 0),
    # A service that starts or comes back is found within half a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]
