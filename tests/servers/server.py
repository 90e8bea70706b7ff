"""A running server as tests, demos and benches see it: where it is, where it came from, and how to make it fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Literal, Protocol
from urllib.parse import urlsplit, urlunsplit

ServerName = Literal["postgres", "postgres18", "mariadb", "mysql", "redis", "zookeeper", "kafka"]


class Origin(Enum):
    """How a server was obtained."""

    ENVIRONMENT = "from the environment"
    """Its address was given; it is somebody else's."""
    CONTAINER = "in a container"
    """Started by testcontainers."""
    PACKAGES = "from packages"
    """Started as a process of this machine."""


class Absence(Enum):
    """Why there is no such server."""

    SWITCHED_OFF = "switched off"
    """The user asked for none; no failure."""
    UNTESTED = "untested"
    """It can only be had from outside and was not given; no failure."""
    MISSING = "missing"
    """It should be there: a failure where CI=true."""


class UnavailableError(RuntimeError):
    """A server that cannot be had.

    Attributes:
        name: The server.
        reason: Why, and what the user can do.
        absence: Which kind of why.
    """

    def __init__(self, name: str, reason: str, absence: Absence = Absence.MISSING) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason
        self.absence = absence


class NotOursError(RuntimeError):
    """A server whose address came from the environment is never killed or stopped."""


class Control(Protocol):
    """What can be done to a server that was started here."""

    @property
    def pid(self) -> int:
        """Process id of the server on this machine."""
        ...

    def kill(self) -> None:
        """End it as a power cut would, and return when it has ended."""
        ...

    def restart(self) -> None:
        """Start it again on the same port and data, and return when it answers."""
        ...

    def pause(self) -> None:
        """Stop all its processes in their tracks (SIGSTOP): connections stay, nothing answers."""
        ...

    def resume(self) -> None:
        """Let them go on (SIGCONT)."""
        ...


@dataclass(frozen=True, slots=True)
class Server:
    """A server that has answered.

    Attributes:
        name: Its name in `tests.servers`.
        url: `postgresql://`, `mysql://` (no driver is named), `redis://`; of ZooKeeper and Kafka `host:port`.
        origin: How it was obtained.
        startup_s: Seconds until it answered; 0 when it was there already.
        control: Its process or container; None when it is somebody else's.
    """

    name: ServerName
    url: str
    origin: Origin
    startup_s: float
    control: Control | None

    @property
    def host(self) -> str:
        """Host name or address."""
        return host_and_port(self.url)[0]

    @property
    def port(self) -> int:
        """TCP port."""
        return host_and_port(self.url)[1]

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._ours().pid

    def kill(self) -> None:
        """SIGKILL to all its processes; its data stays. Returns when they have ended."""
        self._ours().kill()

    def restart(self) -> None:
        """Start it again on the same port and data, killing it first when it runs. Returns when it answers."""
        self._ours().restart()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """SIGSTOP to all its processes for the length of the block: it is silent, not dead. SIGCONT at the end."""
        control = self._ours()
        control.pause()
        try:
            yield
        finally:
            control.resume()

    def _ours(self) -> Control:
        if self.control is None:
            raise NotOursError(
                f"{self.name} came from the environment and is not ours to stop: unset its variable to have one started"
            )
        return self.control


def host_and_port(address: str) -> tuple[str, int]:
    """Where a URL or a `host:port` points.

    Raises:
        ValueError: It has no host or no port.
    """
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname is None or parts.port is None:
        raise ValueError(f"an address needs a host and a port: {address!r}")
    return parts.hostname, parts.port


def with_address(address: str, host: str, port: int) -> str:
    """The same URL or `host:port`, pointing somewhere else."""
    if "://" not in address:
        return f"{host}:{port}"
    parts = urlsplit(address)
    user, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}{at}{host}:{port}"))
