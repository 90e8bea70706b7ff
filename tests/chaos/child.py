"""One process of the chaos suite, with failpoints that can be set while it runs, and a death that is waited for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from txcoord_proto.failpoints import VARIABLE
from txcoord_sdk.testing import CoordinatorProcess, wait_until

ROOT = Path(__file__).parent.parent.parent
_PATIENCE = 20.0


class Failpoints:
    """The file from which a process learns where to kill itself.

    Args:
        path: Of it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.set("")

    def set(self, orders: str) -> None:
        """Replace its text at one stroke."""
        whole = self._path.with_suffix(".new")
        whole.write_text(orders)
        whole.replace(self._path)

    @property
    def environment(self) -> dict[str, str]:
        """What has a process read it."""
        return {VARIABLE: f"@{self._path}"}


class Child:
    """A program of this folder, which waits for a line on standard input when it has imported everything, and ends with it.

    Where it is to be restarted often the next process is got ready beside the running one.

    Args:
        name: For its files.
        arguments: Module and arguments.
        directory: For its files.
        port: On which it answers when it is ready; 0: it is ready when it says so.
        spare: Whether the next one is got ready.
    """

    def __init__(self, name: str, arguments: tuple[str, ...], directory: Path, port: int = 0, spare: bool = False) -> None:
        self.failpoints = Failpoints(directory / f"{name}.failpoints")
        self.name = name
        self._arguments = arguments
        self._log = directory / f"{name}.log"
        self._port = port
        self._keeps_spare = spare
        self._spare: subprocess.Popen[str] | None = None
        self._process: subprocess.Popen[str] | None = None

    @property
    def process(self) -> subprocess.Popen[str]:
        """It, running or dead."""
        assert self._process is not None
        return self._process

    def _open(self) -> subprocess.Popen[str]:
        with self._log.open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *self._arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **self.failpoints.environment},
            )

    def launch(self) -> None:
        """Start it, and do not wait."""
        self._process, self._spare = self._spare or self._open(), None
        self.say("go")

    def say(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def start(self) -> None:
        """Start it; returns when it is ready."""
        self.launch()
        if self._keeps_spare:
            self._spare = self._open()
        if self._port:
            wait_until(self._answers, _PATIENCE, f"the start of {self.name}")
        else:
            assert self.process.stdout is not None
            assert "ready" in self.process.stdout.readline(), self.log()

    def _answers(self) -> bool:
        assert self.process.poll() is None, f"{self.name} ended: {self.log()}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text()

    @property
    def dead(self) -> bool:
        """Whether it has killed itself.

        Raises:
            AssertionError: It has ended in another way.
        """
        code = self.process.poll()
        assert code in (None, -signal.SIGKILL), f"{self.name} ended with {code}: {self.log()}"
        return code is not None

    def end(self) -> None:
        """Kill it, if it lives, and forget it."""
        _end(self._process)
        self._process = None

    def close(self) -> None:
        """End it and its spare."""
        self.end()
        _end(self._spare)
        self._spare = None

    def restart(self) -> None:
        """Start it again without failpoints."""
        self.end()
        self.failpoints.set("")
        self.start()


def _end(process: subprocess.Popen[str] | None) -> None:
    if process is not None:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


class Coordinator:
    """The coordinator, likewise.

    Args:
        store: SQLAlchemy URL of its store.
        directory: For its files.
    """

    def __init__(self, store: str, directory: Path) -> None:
        self.name = "coordinator"
        self.failpoints = Failpoints(directory / "coordinator.failpoints")
        self.server = CoordinatorProcess(store, environment=self.failpoints.environment)

    def start(self) -> None:
        """Start it; returns when it listens."""
        self.server.start()

    def log(self) -> str:
        """What it has logged."""
        return self.server.log()

    @property
    def dead(self) -> bool:
        """Whether it has killed itself."""
        try:
            return self.server.wait(0) == -signal.SIGKILL
        except subprocess.TimeoutExpired:
            return False

    def end(self) -> None:
        """Kill it."""
        self.server.kill()

    def dies_at_start(self, orders: str) -> None:
        """Kill it, and start it again with failpoints that kill it before it serves."""
        self.end()
        self.failpoints.set(orders)
        with pytest.raises(RuntimeError, match=f"exit code {-signal.SIGKILL.value}"):
            self.server.start()

    def restart(self) -> None:
        """Start it again without failpoints."""
        self.end()
        self.failpoints.set("")
        self.start()
