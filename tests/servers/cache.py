"""The user's cache outside the tree: downloads that outlive a run, and locks between runs."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_directory() -> Path:
    """`$XDG_CACHE_HOME/txcoord`, by default `~/.cache/txcoord`; made when it is not there."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(base, "txcoord")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Only one process of this user at a time is inside the block; the lock ends with the process.

    Args:
        name: What is locked.
    """
    with open(cache_directory() / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
