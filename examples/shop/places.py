"""Which databases the shop can run on, and in which modes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from examples.shop.modes import WAYS, XA
from examples.shop.stage import SERVICES

DATABASES = ("sqlite", "postgres", "mariadb")
MODES = (*WAYS, "saga", "trip", "outbox", "message", "locks")


def refusal(db: str, mode: str) -> str:
    """Why this pair cannot be run and which one to use instead; empty when it can."""
    if mode not in WAYS:
        return f"mode {mode} does not exist yet: use --db {db} --mode at (make demo DB={db})"
    if db == "sqlite" and any(way is XA for way in WAYS[mode].values()):
        return (
            f"mode {mode} needs a database that can prepare a transaction, and SQLite cannot: use --db postgres --mode {mode} "
            f"(make demo MODE={mode}), or --db sqlite --mode at (make demo)"
        )
    return ""


@contextmanager
def databases_on(db: str, directory: Path) -> Iterator[dict[str, str]]:
    """A database for each service and one for the coordinator, gone after the block.

    Args:
        db: One of DATABASES.
        directory: Where SQLite files go.

    Yields:
        URL by service, and `coordinator`.
    """
    names = (*SERVICES, "coordinator")
    if db == "sqlite":
        yield {name: f"sqlite:///{directory}/{name}.db" for name in names}
        return
    from tests.servers import ServerName, fresh_database, running

    wanted: ServerName = "postgres" if db == "postgres" else "mariadb"
    with running(wanted) as server, ExitStack() as stack:
        yield {name: stack.enter_context(fresh_database(server)) for name in names}
