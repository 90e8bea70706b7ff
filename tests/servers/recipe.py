"""What one server needs: its packages, its command line, its image, and the question it must answer. Plain values."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers.server import ServerName

Say = Callable[[str], None]
"""Shows one line of progress."""

_SYSTEM_DIRECTORIES = "/usr/sbin:/usr/local/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a server as a process.

    Attributes:
        command: The server, in the foreground.
        prepare: Commands that lay its data out before the first start.
        files: Configuration, by name relative to its directory.
        stop: The signal that ends it at once and leaves nothing in shared memory.
    """

    command: tuple[str, ...]
    prepare: tuple[tuple[str, ...], ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    stop: signal.Signals = signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Image:
    """How to start a server as a container.

    Attributes:
        reference: Name and tag.
        port: The port inside.
        environment: Its variables; `{address}` stands for the address on this machine.
        command: Arguments of its entry point.
    """

    reference: str
    port: int
    environment: Mapping[str, str] = field(default_factory=dict)
    command: str = ""


@dataclass(frozen=True, slots=True)
class Requirement:
    """Something that must be on this machine.

    Attributes:
        package: The package that brings it.
        present: Whether it is there.
        service: The service that the package would start at boot; it is disabled when the package is installed here.
        python: A Python package, which belongs to the extra `dev`; else one of the distribution.
    """

    package: str
    present: Callable[[], bool]
    service: str = ""
    python: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """One server.

    Attributes:
        name: Its name.
        variable: The environment variable that gives its address.
        url: Its URL, with `{address}` for host:port.
        answers: Asks a real question of the server at a URL, raising when it does not answer; has a timeout of its own.
        requires: What must be installed to start it as a process.
        launch: Directory and port to a command line; None: it cannot be started here.
        fetch: Downloads what no package brings.
        image: Its container; None: it has none.
        start_limit_s: How long it may take until it answers.
    """

    name: ServerName
    variable: str
    url: str
    answers: Callable[[str], None]
    requires: tuple[Requirement, ...] = ()
    launch: Callable[[Path, int], Launch] | None = None
    fetch: Callable[[Say], None] | None = None
    image: Image | None = None
    start_limit_s: float = 60.0


def program(name: str) -> str:
    """Path of a program, also of one that only administrators have on their path; empty when there is none."""
    return shutil.which(name) or shutil.which(name, path=_SYSTEM_DIRECTORIES) or ""
