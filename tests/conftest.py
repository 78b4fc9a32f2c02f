"""What tests of several folders need."""

import os
import socket
from collections.abc import Callable

import pytest

# The offsets of shared/settings.py that one machine with two FFN shards takes.
_PORT_OFFSETS = (0, 1, 3, 4, 10, 30, 31)


@pytest.fixture(scope="session")
def free_port_base() -> Callable[[], int]:
    """Finds a STEP3_PORT_BASE of which every port is free; each call gives another."""
    # Below the ports that the kernel gives to clients; apart from a test run beside this one.
    candidates = iter(range(10000 + os.getpid() % 100 * 200, 32000, 50))

    def find() -> int:
        for base in candidates:
            try:
                for offset in _PORT_OFFSETS:
                    with socket.socket() as probe:
                        probe.bind(("127.0.0.1", base + offset))
            except OSError:
                continue
            return base
        raise AssertionError("no free ports")

    return find
