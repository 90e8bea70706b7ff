"""What a client is told: arguments first, environment variables where they are silent. Read once, in `connect`."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from txcoord_proto.errors import ConfigurationError

DEFAULT_ADDRESS = "127.0.0.1:8190"


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS towards the coordinator.

    Args:
        ca: PEM file of the authority that signed the coordinator's certificate; None: the system's.
        certificate: PEM file of the client's own certificate, where the coordinator wants one.
        key: Its private key.
        server_name: Name in the coordinator's certificate, where it is not the address.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """A client of the coordinator; times are seconds.

    Attributes:
        service: Name of this service; only it may commit what it begins.
        addresses: Coordinators, `host:port`; any one that answers names the leader.
        token: Proves that this process belongs to the service; empty: none.
        tls: TLS; None: in the clear.
        failover_wait: How long requests wait for a coordinator that does not answer.
        threads: Threads for the synchronous second phases of each action without a database.
        instance: Name of this process for people.
    """

    service: str
    addresses: tuple[str, ...] = (DEFAULT_ADDRESS,)
    token: str = ""
    tls: Tls | None = None
    failover_wait: float = 30.0
    threads: int = 16
    instance: str = ""

    def __post_init__(self) -> None:
        if not self.service or len(self.service) > 100:
            raise ConfigurationError(
                "the client needs the name of its service, 1 to 100 characters: connect(..., service='order') or TXCOORD_SERVICE"
            )
        if not self.addresses:
            raise ConfigurationError(
                "the client needs the address of a coordinator: connect('host:port', ...) or TXCOORD_ADDRESS"
            )
        for address in self.addresses:
            host, _, port = address.rpartition(":")
            if not host or not port.isdigit():
                raise ConfigurationError(f"{address!r} is no address of a coordinator: write host:port")

    def name(self) -> str:
        """What the coordinator calls this process."""
        return self.instance or f"{self.service}@{socket.gethostname()}:{os.getpid()}"


def config_from(
    address: str | None = None,
    service: str | None = None,
    token: str | None = None,
    tls: Tls | None = None,
    failover_wait: float = 30.0,
    threads: int = 16,
    environment: Mapping[str, str] | None = None,
) -> ClientConfig:
    """A configuration from arguments and environment variables.

    Args:
        address: `host:port`, several separated by commas; TXCOORD_ADDRESS; this machine's port 8190.
        service: TXCOORD_SERVICE.
        token: TXCOORD_TOKEN.
        tls: TXCOORD_TLS_CA, _CERT, _KEY, _SERVER_NAME; TXCOORD_TLS=1 alone takes the authorities of the system.
        failover_wait: Seconds that requests wait for a coordinator that does not answer.
        threads: For the synchronous second phases of each action without a database.
        environment: Instead of the process's.
    """
    env = os.environ if environment is None else environment
    if tls is None and any(name in env for name in ("TXCOORD_TLS", "TXCOORD_TLS_CA", "TXCOORD_TLS_CERT")):
        tls = Tls(
            _path(env, "TXCOORD_TLS_CA"),
            _path(env, "TXCOORD_TLS_CERT"),
            _path(env, "TXCOORD_TLS_KEY"),
            env.get("TXCOORD_TLS_SERVER_NAME", ""),
        )
    listed = address or env.get("TXCOORD_ADDRESS") or DEFAULT_ADDRESS
    return ClientConfig(
        service=service or env.get("TXCOORD_SERVICE", ""),
        addresses=tuple(a.strip() for a in listed.split(",") if a.strip()),
        token=token if token is not None else env.get("TXCOORD_TOKEN", ""),
        tls=tls,
        failover_wait=failover_wait,
        threads=threads,
    )


def _path(env: Mapping[str, str], name: str) -> Path | None:
    return Path(env[name]) if env.get(name) else None
