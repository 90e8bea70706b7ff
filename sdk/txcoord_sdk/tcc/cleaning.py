"""Removes fence rows that nobody needs any more, about once an hour, in every process that serves fenced actions."""

from __future__ import annotations

import logging
import os
import random
import threading
import weakref

from txcoord_proto.errors import TxcoordError

from txcoord_sdk.client import Client
from txcoord_sdk.database import Database
from txcoord_sdk.fence.retention import purge_steps
from txcoord_sdk.transaction.effects import adrive, drive

log = logging.getLogger(__name__)

PERIOD_SECONDS = 3600.0

_kept: weakref.WeakKeyDictionary[Database, int] = weakref.WeakKeyDictionary()


def purge(client: Client, database: Database) -> int:
    """Remove the rows of settled transactions whose retention is over; returns how many (blocks)."""
    return drive(purge_steps(database.run, client.settled, database.fence_retention))


async def apurge(client: Client, database: Database) -> int:
    """Remove the rows of settled transactions whose retention is over; returns how many."""
    return await adrive(purge_steps(database.arun, client.settled, database.fence_retention))


def keep_clean(client: Client, database: Database) -> None:
    """Purge from time to time, as long as the client lives; does nothing the second time in a process."""
    if _kept.get(database) != os.getpid():
        _kept[database] = os.getpid()
        _later(weakref.ref(client), weakref.ref(database))


def _later(client: weakref.ref[Client], database: weakref.ref[Database]) -> None:
    # The processes of a service start together and shall not purge together.
    pause = PERIOD_SECONDS * (0.5 + random.random())  # noqa: S311 - jitter
    timer = threading.Timer(pause, _once, (client, database))
    timer.daemon = True
    timer.start()


def _once(client_ref: weakref.ref[Client], database_ref: weakref.ref[Database]) -> None:
    client, database = client_ref(), database_ref()
    if client is None or database is None or client.ended:
        return

    async def arun() -> None:
        try:
            _say(database, await apurge(client, database))
        except (TxcoordError, OSError) as error:
            log.info("fence rows are purged later: %s", error)

    def run() -> None:
        try:
            _say(database, purge(client, database))
        except (TxcoordError, OSError) as error:
            log.info("fence rows are purged later: %s", error)

    client.in_background(arun if database.is_async else run)
    _later(client_ref, database_ref)


def _say(database: Database, removed: int) -> None:
    if removed:
        log.info("purged %d fence rows of database %s", removed, database.id)
