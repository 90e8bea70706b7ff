"""For users' own tests: a real coordinator as a child process, and pytest fixtures around it.

The plugin is found by pytest by itself; it imports nothing of txcoord until a fixture is used. The coordinator keeps its
decisions in a temporary SQLite file (or the store that it is given), listens on a free port and ends with the process that
started it.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from txcoord_sdk.client import Client

_START_SECONDS = 30.0
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")

# The child reads its standard input, which ends when the parent does, however that ends.
_SHIM = """
import os, sys, threading
from importlib.metadata import entry_points
threading.Thread(target=lambda: (os.read(0, 1), os._exit(3)), daemon=True).start()
sys.argv[0] = "txcoord"
next(iter(entry_points(group="console_scripts", name="txcoord"))).load()()
"""


def free_port() -> int:
    """A port of this machine on which nothing listens, for a server that may be down at times.

    It lies below the range from which the kernel takes the ports of outgoing connections. Inside that range another program's
    connection could take the port meanwhile, and a client that dials a server that is down again and again ends up connected
    to itself (TCP's simultaneous open).

    Raises:
        OSError: None of a hundred ports tried was free.
    """
    try:
        upper = int(_PORT_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        upper = 32_768
    lower = max(1024, upper - 12_000)
    for port in random.sample(range(lower, upper), min(100, upper - lower)) if upper > lower else [0]:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError(f"no free port between {lower} and {upper}")


class CoordinatorProcess:
    """A coordinator of one's own.

    Args:
        store: SQLAlchemy URL of its store; None: a temporary SQLite file, removed at the end.
        port: Port to listen on; 0: a free one, kept over restarts.
        options: Further options of `txcoord serve`.
        environment: Further environment variables.
    """

    def __init__(
        self,
        store: str | None = None,
        port: int = 0,
        options: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="txcoord-") if store is None else None
        self.store = store or f"sqlite:///{self._directory.name if self._directory else ''}/coordinator.db"
        self.port = port
        self._options = options
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[str] | None = None
        log, self._log_name = tempfile.mkstemp(prefix="txcoord-", suffix=".log")
        self._log = os.fdopen(log, "w")

    @property
    def address(self) -> str:
        """`host:port`, for `connect`."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the running coordinator."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """What it has logged so far."""
        return Path(self._log_name).read_text()

    def start(self, environment: Mapping[str, str] | None = None) -> CoordinatorProcess:
        """Start it, or start it again on the same store and port; returns when it listens.

        Args:
            environment: Further environment variables for this start.

        Raises:
            RuntimeError: It did not start; its log is in the text.
        """
        self.port = self.port or free_port()
        command = [sys.executable, "-c", _SHIM, "serve", "--store", self.store, "--port", str(self.port), *self._options]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, **self._environment, **(environment or {})},
        )
        self.port = self._listening()
        return self

    def _listening(self) -> int:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        impatience = threading.Timer(_START_SECONDS, process.kill)
        impatience.start()
        try:
            for line in process.stdout:
                if " listening on " in line:
                    return int(line.rsplit(":", 1)[1])
            code = process.wait()
        finally:
            impatience.cancel()
        raise RuntimeError(f"the coordinator did not start (exit code {code}):\n{self.log()}")

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM: it drains and ends; SIGKILL after a while."""
        self._end(signal.SIGTERM)

    def wait(self, timeout: float) -> int:
        """Wait for its end; returns the exit code.

        Args:
            timeout: Seconds.
        """
        assert self._process is not None
        return self._process.wait(timeout)

    def pause(self) -> None:
        """SIGSTOP: it stands still as if its machine did."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, number: int) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = None

    def close(self) -> None:
        """End it and remove what it left."""
        self.terminate()
        self._log.close()
        Path(self._log_name).unlink(missing_ok=True)
        if self._directory is not None:
            self._directory.cleanup()

    def __enter__(self) -> CoordinatorProcess:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def wait_until(condition: object, timeout: float = 10.0, what: str = "the condition") -> None:
    """Wait until a callable returns something true.

    Args:
        condition: Called again and again.
        timeout: Seconds.
        what: For the message.

    Raises:
        TimeoutError: It did not become true in time.
    """
    assert callable(condition)
    until = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"{what} did not come true within {timeout} s")
        time.sleep(0.02)


@pytest.fixture
def txcoord_coordinator() -> Iterator[CoordinatorProcess]:
    """A coordinator of its own for a test: `txcoord_coordinator.address`."""
    with CoordinatorProcess() as coordinator:
        yield coordinator


@pytest.fixture
def txcoord_client(txcoord_coordinator: CoordinatorProcess) -> Iterator[Client]:
    """A client of that coordinator, for service `test`; the default one of `global_transaction` and `tcc`."""
    from txcoord_sdk.client import connect

    client = connect(txcoord_coordinator.address, service="test")
    yield client
    client.close()
