"""What a coordinator is told: read once, from options and their environment variables, in `app`."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path

from txcoord_proto.errors import ConfigurationError
from txcoord_proto.xid import GROUP_PATTERN

from txcoord_server.engine.engine import EngineConfig

_ENDPOINT = re.compile(r"(?:\[([^\[\]\s]+)\]|([^:\[\]\s]*)):(\d{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens.

    Args:
        host: Name or address.
        port: 0: any free one.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, option: str, text: str) -> Endpoint:
        """Read HOST:PORT; an IPv6 address stands in brackets, no host is this machine only.

        Args:
            option: What it was given as.
            text: What was given.

        Raises:
            ConfigurationError: It is none.
        """
        found = _ENDPOINT.fullmatch(text)
        if found is None or int(found[3]) > 65_535:
            raise ConfigurationError(f"{option} {text}: HOST:PORT to listen on is wanted, such as 127.0.0.1:8190 or [::1]:8190")
        return cls(found[1] or found[2] or "127.0.0.1", int(found[3]))

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """A coordinator process.

    Attributes:
        store: SQLAlchemy URL of the store.
        listen: Where clients reach it.
        advertise: `host:port` under which clients reach this node; empty: what it listens on.
        node: Name of this node, for people.
        metrics: The Prometheus endpoint; None: none.
        tls_certificate, tls_key, tls_client_ca: PEM files; a client CA makes client certificates mandatory.
        insecure: Listen beyond loopback without TLS and tokens all the same.
        unsafe_store: Run on a store whose settings can lose acknowledged commits.
        drain: Seconds that running calls get at the end.
        engine: Rules and times.
    """

    store: str = "sqlite:///txcoord.db"
    listen: Endpoint = Endpoint("127.0.0.1", 8190)
    advertise: str = ""
    node: str = field(default_factory=socket.gethostname)
    metrics: Endpoint | None = None
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
    def exposed(self) -> bool:
        """Whether others reach it, so that it insists on TLS and tokens."""
        return not (self.listen.loopback or self.insecure)
