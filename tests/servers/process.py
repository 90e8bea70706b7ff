"""A server as a process of this machine: started under a guard, killed, started again, stopped and continued.

Where the run is root the server runs as `nobody` (PostgreSQL refuses root, and none of them needs it). It listens on the
loopback interface only and asks no password: for tests, never for data.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tenacity import Retrying, retry_if_not_exception_type, stop_after_delay, wait_fixed

from tests.servers import guard
from tests.servers.recipe import Recipe
from tests.servers.server import host_and_port

_UNPRIVILEGED = "nobody"
_GUARD_LIMIT_S = 15.0


class ServerExitedError(RuntimeError):
    """The server ended by itself; the text carries the end of its log."""


def wait_until_answers(recipe: Recipe, url: str, check_alive: Callable[[], None]) -> None:
    """Ask until the server answers, or raise the last error when its time to start is over.

    Args:
        recipe: What to ask, and how long.
        url: Whom to ask.
        check_alive: Raises ServerExitedError when waiting is of no use.
    """

    def ask() -> None:
        socket.create_connection(host_and_port(url), timeout=1).close()  # the clients log each refused connection
        recipe.answers(url)

    waiting = Retrying(
        retry=retry_if_not_exception_type(ServerExitedError),
        stop=stop_after_delay(recipe.start_limit_s),
        wait=wait_fixed(0.05),
        before_sleep=lambda _: check_alive(),
        reraise=True,
    )
    waiting(ask)


def readable(tree: Path, directory: Path) -> Path:
    """A tree as the unprivileged user can read it: itself, or a copy where the run is root and the tree is closed to others.

    Root's home is, and with it an environment or a cache inside.
    """
    if os.geteuid() != 0 or _is_open(tree):
        return tree
    return Path(shutil.copytree(tree, directory / tree.name, symlinks=True))


def _is_open(tree: Path) -> bool:
    reachable = all(path.stat().st_mode & stat.S_IXOTH for path in (tree, *tree.resolve().parents))
    return reachable and all(path.stat().st_mode & stat.S_IROTH for path in tree.rglob("*"))


class ServerProcess:
    """One server on one port with one data directory.

    Args:
        recipe: What it is.
        port: A free port.
        directory: An empty directory, to be removed after `close`.

    Attributes:
        url: Where it listens.
    """

    def __init__(self, recipe: Recipe, port: int, directory: Path) -> None:
        assert recipe.launch is not None
        self._recipe = recipe
        self._directory = directory
        self._user = _UNPRIVILEGED if os.geteuid() == 0 else None
        self.url = recipe.url.format(address=f"127.0.0.1:{port}")
        self._guard: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._launch = recipe.launch(directory, port)
        for name, text in self._launch.files.items():
            (directory / name).write_text(text)
        self._give_away()

    @property
    def pid(self) -> int:
        """Process id of the server while it runs."""
        return self._pid

    def start(self) -> None:
        """Lay out the data and start for the first time; returns when the server answers.

        Raises:
            ServerExitedError: It ended.
        """
        self._run(self._launch.prepare)

    def kill(self) -> None:
        """SIGKILL to the server and all its processes; the data stays."""
        if self._guard is not None:
            guard.kill_tree(self._pid)
            self._forget_guard()

    def restart(self) -> None:
        """Start on the same port and data; returns when the server answers."""
        self.kill()
        self._run(())

    def pause(self) -> None:
        """SIGSTOP to the server and all its processes."""
        guard.signal_tree(self._pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT to them."""
        guard.signal_tree(self._pid, signal.SIGCONT)

    def close(self) -> None:
        """End the server."""
        if self._guard is not None:
            self._forget_guard()

    def _run(self, prepare: tuple[tuple[str, ...], ...]) -> None:
        order = guard.Order(
            parent=os.getpid(),
            directory=str(self._directory),
            prepare=[list(command) for command in prepare],
            command=list(self._launch.command),
            user=self._user,
            stop=self._launch.stop,
        )
        command = [sys.executable, "-I", guard.__file__, json.dumps(order)]
        self._guard = subprocess.Popen(command, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert self._guard.stdout is not None
        announced = self._guard.stdout.readline()
        if not announced:
            raise ServerExitedError(self._last_words())
        self._pid = int(announced)
        wait_until_answers(self._recipe, self.url, self._check_alive)

    def _check_alive(self) -> None:
        if self._guard is None or self._guard.poll() is not None:
            raise ServerExitedError(self._last_words())

    def _forget_guard(self) -> None:
        assert self._guard is not None
        try:
            self._guard.communicate(b".", timeout=_GUARD_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.communicate()
        self._guard = None

    def _give_away(self) -> None:
        if self._user is not None:
            owner = pwd.getpwnam(self._user)
            for path in [self._directory, *self._directory.rglob("*")]:
                os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)

    def _last_words(self) -> str:
        log = self._directory / "server.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        return f"{self._recipe.name} ended while it started; its log ends with:\n{text[-2000:]}"
