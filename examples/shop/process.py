"""One service of the shop as a child process, which ends when the driver does, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
from txcoord_sdk.testing import free_port, wait_until

# The child reads its standard input, which ends when the driver does.
_SHIM = """
import os, runpy, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(3)), daemon=True).start()
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
_START_SECONDS = 30.0


class ServiceProcess:
    """A service on a port of its own, kept over restarts.

    Args:
        name: `order`, `stock` or `balance`.
        environment: What it is told.
        log: File that its output is appended to.
    """

    def __init__(self, name: str, environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = {**os.environ, **environment}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True) -> None:
        """Start it.

        Args:
            wait: Until it answers.

        Raises:
            RuntimeError: It ended instead; its log is in the text.
        """
        command = [sys.executable, "-c", _SHIM, f"examples.shop.{self.name}", "--port", str(self.port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=self._environment
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until it answers."""
        wait_until(self._answers, _START_SECONDS, f"the start of the {self.name} service")

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"the {self.name} service ended:\n{self.log()[-3000:]}")
        try:
            return httpx.get(f"{self.url}/health").is_success
        except httpx.TransportError:
            return False

    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """SIGSTOP, and SIGCONT after the block if it has not been killed there."""
        process = self._process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)  # does nothing to one that has ended

    def stop(self) -> None:
        """SIGTERM: it serves what it has begun, then ends."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdin is not None
        process.stdin.close()
