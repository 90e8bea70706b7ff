"""A server as a container, where a container engine answers. testcontainers is imported only then."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

from tests.servers.process import ServerExitedError, wait_until_answers
from tests.servers.recipe import Recipe

_PING_LIMIT_S = 1.0


def _engine() -> tuple[str, str, int]:
    """Scheme, host or path, and port of the container engine."""
    parts = urlsplit(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"))
    if parts.scheme == "unix":
        return parts.scheme, parts.path, 0
    return parts.scheme, parts.hostname or "127.0.0.1", parts.port or 2375


def engine_answers() -> bool:
    """Whether a container engine answers a ping, within a second or two."""
    scheme, host, port = _engine()
    family, address = (socket.AF_UNIX, host) if scheme == "unix" else (socket.AF_INET, (host, port))
    try:
        with socket.socket(family) as connection:
            connection.settimeout(_PING_LIMIT_S)
            connection.connect(address)
            connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.recv(64)
    except OSError:
        return False


class ServerContainer:
    """One server on one port of the engine's machine. testcontainers removes it also when the run has died.

    Args:
        recipe: What it is; it has an image.
        port: A free port.
    """

    def __init__(self, recipe: Recipe, port: int) -> None:
        from testcontainers.core.container import DockerContainer  # only where an engine answers

        assert recipe.image is not None
        scheme, host, _ = _engine()
        address = f"{'127.0.0.1' if scheme == 'unix' else host}:{port}"
        self.url = recipe.url.format(address=address)
        self._recipe = recipe
        # a fixed port: a restarted container would get another one
        self._container = DockerContainer(recipe.image.reference).with_bind_ports(recipe.image.port, port)
        for name, value in recipe.image.environment.items():
            self._container.with_env(name, value.replace("{address}", address))
        if recipe.image.command:
            self._container.with_command(recipe.image.command)

    @property
    def pid(self) -> int:
        """Process id on the engine's machine."""
        container = self._container.get_wrapped_container()
        container.reload()
        return int(container.attrs["State"]["Pid"])

    def start(self) -> None:
        """Pull the image if it is not there, and start; returns when the server answers."""
        self._container.start()
        self._wait()

    def kill(self) -> None:
        """SIGKILL to all its processes; the data stays."""
        if self._running():
            self._container.get_wrapped_container().kill()
            self._container.get_wrapped_container().wait()

    def restart(self) -> None:
        """Start on the same port and data; returns when the server answers."""
        self.kill()
        self._container.get_wrapped_container().start()
        self._wait()

    def pause(self) -> None:
        """Freeze all its processes."""
        self._container.get_wrapped_container().pause()

    def resume(self) -> None:
        """Let them go on."""
        self._container.get_wrapped_container().unpause()

    def close(self) -> None:
        """End the server and remove the container."""
        self._container.stop()

    def _running(self) -> bool:
        container = self._container.get_wrapped_container()
        container.reload()
        return bool(container.status == "running")

    def _wait(self) -> None:
        wait_until_answers(self._recipe, self.url, self._check_alive)

    def _check_alive(self) -> None:
        if not self._running():
            out, err = self._container.get_logs()
            raise ServerExitedError(
                f"{self._recipe.name} ended while it started; its log ends with:\n{(out + err).decode()[-2000:]}"
            )
