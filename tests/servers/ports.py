"""Free ports of the loopback interface."""

from __future__ import annotations

import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_SPAN = 12_000


def free_port() -> int:
    """A port on which nothing listens.

    It lies below the range from which the kernel takes the ports of outgoing connections. Inside that range another
    program's connection could take the port of a server that is down for a moment, and a client that dials a dead
    server again and again ends up connected to itself (TCP's simultaneous open).

    Raises:
        OSError: None of a hundred ports tried was free.
    """
    try:
        upper = int(_RANGE_FILE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        upper = 32_768
    lower = max(1024, upper - _SPAN)
    candidates = random.sample(range(lower, upper), min(100, upper - lower)) if upper > lower else [0]
    for port in candidates:
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError(f"no free port between {lower} and {upper}")
