"""Keeps one server process and ends it with whoever asked for it.

Run as a script of its own (`python -I guard.py ORDER`), never imported for its `main`. It stands between a test run and a
server so that the server cannot outlive the run: the guard watches the run through a pidfd, which tells the end of the
process whatever ended it, and the kernel kills the server when the guard dies (PR_SET_PDEATHSIG). The guard has one thread,
so the code between fork and exec is safe here and would not be in a test run with threads; and it is the guard's main
thread that the kernel watches, not a thread of the run that may end earlier.

Only the standard library and no module of ours: it runs isolated, as root where the run is root, and the server as USER.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO, TypedDict

_PR_SET_PDEATHSIG = 1
_STOP_LIMIT_S = 5.0
_LIBC = ctypes.CDLL(None, use_errno=True)


class Order(TypedDict):
    """What a guard is told, as JSON in its one argument."""

    parent: int
    """Process id of the run; the server ends with it."""
    directory: str
    """The server's directory: working directory, log, and what is removed when the run has died."""
    prepare: list[list[str]]
    """Commands that run to their end before the server starts."""
    command: list[str]
    """The server, in the foreground."""
    user: str | None
    """Account to run all of them as; None: the run's own."""
    stop: int
    """Signal that ends the server at once and cleanly."""


def descendants(pid: int) -> list[int]:
    """Process ids of the children of `pid` and of theirs, from /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    pending = [pid]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def signal_tree(pid: int, number: int) -> None:
    """Send SIGSTOP or SIGCONT to a process, then to its descendants."""
    _send(pid, number)
    for each in descendants(pid):
        _send(each, number)


def kill_tree(pid: int) -> None:
    """Kill a process and its descendants, and wait until each has ended (5 s at most).

    The topmost is stopped first, so that it starts no child meanwhile. The wait matters: PostgreSQL refuses to start on
    a data directory while one backend of the former server is still on its way out.
    """
    _send(pid, signal.SIGSTOP)
    family = []
    for each in [*descendants(pid), pid]:
        with contextlib.suppress(ProcessLookupError):
            family.append(os.pidfd_open(each))
    for handle in family:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    for handle in family:
        select.select([handle], [], [], _STOP_LIMIT_S)
        os.close(handle)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _die_with_guard() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _spawn(order: Order, command: list[str], log: BinaryIO) -> subprocess.Popen[bytes]:
    directory, user = order["directory"], order["user"]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": directory, "LC_ALL": "C", "TZ": "UTC"}
    return subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        preexec_fn=_die_with_guard,
        user=user,
        group=None if user is None else pwd.getpwnam(user).pw_gid,
        extra_groups=None if user is None else [],
    )


def _end(child: subprocess.Popen[bytes], stop: int) -> None:
    """End a process and its descendants, also when they are stopped."""
    signal_tree(child.pid, signal.SIGCONT)
    if stop != signal.SIGKILL:
        child.send_signal(stop)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_STOP_LIMIT_S)
            return
    kill_tree(child.pid)
    child.wait()


class Guard:
    """One order, carried out.

    Attributes:
        ended: The run asked for the end, or has died; nothing is started after that.
        orphaned: The run has died.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._parent = os.pidfd_open(order["parent"])
        self.ended = self.orphaned = os.getppid() != order["parent"]

    def run(self, command: list[str], log: BinaryIO, announce: bool) -> int:
        """Run a command until it ends or has to.

        Args:
            command: Program and arguments.
            log: Where its output goes.
            announce: Tell the run the process id.

        Returns:
            Its exit code.
        """
        child = _spawn(self._order, command, log)
        if announce:
            print(child.pid, flush=True)
        own = os.pidfd_open(child.pid)
        poller = select.poll()
        for descriptor in (self._parent, own, sys.stdin.fileno()):
            poller.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poller.poll()}
        os.close(own)
        if ready != {own}:
            self.ended = True
            self.orphaned = self._parent in ready or not os.read(sys.stdin.fileno(), 1)
            _end(child, self._order["stop"])
        return child.wait()


def main(order: Order) -> int:
    """Prepare, keep the server, and clean up after a run that has died."""
    guard = Guard(order)
    code = 0
    with open(Path(order["directory"], "server.log"), "ab") as log:
        for command in order["prepare"]:
            if not guard.ended and code == 0:
                code = guard.run(command, log, announce=False)
        if not guard.ended and code == 0:
            code = guard.run(order["command"], log, announce=True)
    if guard.orphaned:
        shutil.rmtree(order["directory"], ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
