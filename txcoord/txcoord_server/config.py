"""What a coordinator is told: read once, from options and their environment variables, in `app`."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, field
from pathlib import Path

from txcoord_proto.errors import ConfigurationError
from txcoord_proto.xid import GROUP_PATTERN

from txcoord_server.engine.engine import EngineConfig


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """A coordinator process.

    Attributes:
        store: SQLAlchemy URL of the store.
        host: Address to listen on.
        port: Port to listen on; 0: any free one.
        advertise: `host:port` under which clients reach this node; empty: what it listens on.
        node: Name of this node, for people.
        metrics: `host:port` of the Prometheus endpoint; empty: none.
        tls_certificate, tls_key, tls_client_ca: PEM files; a client CA makes client certificates mandatory.
        insecure: Listen beyond loopback without TLS and tokens all the same.
        unsafe_store: Run on a store whose settings can lose acknowledged commits.
        drain: Seconds that running calls get at the end.
        engine: Rules and times.
    """

    store: str = "sqlite:///txcoord.db"
    host: str = "127.0.0.1"
    port: int = 8190
    advertise: str = ""
    node: str = field(default_factory=lambda: f"{socket.gethostname()}")
    metrics: str = ""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    insecure: bool = False
    unsafe_store: bool = False
    drain: float = 5.0
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if GROUP_PATTERN.fullmatch(self.engine.group) is None:
            raise ConfigurationError(f"group {self.engine.group!r}: 1 to 32 letters, digits, - and _ are allowed")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigurationError("TLS needs both a certificate and its key")
        for what, text, longest in (("node", self.node, 128), ("advertise", self.advertise, 255)):
            if len(text) > longest:
                raise ConfigurationError(f"{what} has {len(text)} characters, at most {longest} are allowed")
        keep = self.engine.retention
        if min(keep.keep_committed, keep.keep_committed_for, keep.keep_keyed, keep.keep_notable_for) < 0:
            raise ConfigurationError("what is kept, and for how long, cannot be negative")
        if self.engine.lease_ttl < 500:
            raise ConfigurationError("the lease must last at least 500 ms: a shorter one is lost to every slow commit")

    @property
    def loopback(self) -> bool:
        """Whether it listens on this machine only."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
