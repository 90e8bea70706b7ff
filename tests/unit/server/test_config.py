"""Where a coordinator listens, from what it was told."""

from __future__ import annotations

import pytest
from txcoord_proto.errors import ConfigurationError
from txcoord_server.config import Endpoint, ServerConfig


@pytest.mark.parametrize(
    ("text", "host", "port", "shown", "loopback"),
    [
        ("127.0.0.1:8190", "127.0.0.1", 8190, "127.0.0.1:8190", True),
        ("localhost:0", "localhost", 0, "localhost:0", True),
        (":8190", "127.0.0.1", 8190, "127.0.0.1:8190", True),
        ("[::1]:8190", "::1", 8190, "[::1]:8190", True),
        ("[::]:65535", "::", 65_535, "[::]:65535", False),
        ("0.0.0.0:1", "0.0.0.0", 1, "0.0.0.0:1", False),
        ("coordinator.internal:1", "coordinator.internal", 1, "coordinator.internal:1", False),
    ],
)
def test_host_and_port(text: str, host: str, port: int, shown: str, loopback: bool) -> None:
    endpoint = Endpoint.parse("--listen", text)
    assert endpoint == Endpoint(host, port)
    assert (str(endpoint), endpoint.loopback) == (shown, loopback)
    assert ServerConfig(listen=endpoint).exposed is not loopback
    assert not ServerConfig(listen=endpoint, insecure=True).exposed


@pytest.mark.parametrize(
    "text", ["", "localhost", "8190", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1", "::1:8190"]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^--listen {text}: HOST:PORT"):
        Endpoint.parse("--listen", text)
