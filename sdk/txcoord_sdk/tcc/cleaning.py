"""Removes rows of ours that nobody needs any more, about once an hour, in every process that does second phases over them."""

from __future__ import annotations

import logging
import os
import random
import threading
import weakref

from txcoord_proto.errors import TxcoordError

from txcoord_sdk.client import Client
from txcoord_sdk.database import Database
from txcoord_sdk.fence.retention import FENCE, Retained, purge_steps
from txcoord_sdk.transaction.effects import adrive, drive

log = logging.getLogger(__name__)

PERIOD_SECONDS = 3600.0

_kept: weakref.WeakKeyDictionary[Database, dict[str, int]] = weakref.WeakKeyDictionary()
"""Of each database the tables that are kept clean, and in which process."""


def purge(client: Client, database: Database, retained: Retained = FENCE) -> int:
    """Remove the rows of settled transactions whose retention is over; returns how many (blocks)."""
    return drive(purge_steps(database.run, client.settled, database.fence_retention, retained))


async def apurge(client: Client, database: Database, retained: Retained = FENCE) -> int:
    """Remove the rows of settled transactions whose retention is over; returns how many."""
    return await adrive(purge_steps(database.arun, client.settled, database.fence_retention, retained))


def keep_clean(client: Client, database: Database, retained: Retained = FENCE) -> None:
    """Purge from time to time, as long as the client lives; does nothing the second time in a process."""
    kept = _kept.setdefault(database, {})
    if kept.get(retained.table.name) != os.getpid():
        kept[retained.table.name] = os.getpid()
        _later(weakref.ref(client), weakref.ref(database), retained)


def _later(client: weakref.ref[Client], database: weakref.ref[Database], retained: Retained) -> None:
    # The processes of a service start together and shall not purge together.
    pause = PERIOD_SECONDS * (0.5 + random.random())  # noqa: S311 - jitter
    timer = threading.Timer(pause, _once, (client, database, retained))
    timer.daemon = True
    timer.start()


def _once(client_ref: weakref.ref[Client], database_ref: weakref.ref[Database], retained: Retained) -> None:
    client, database = client_ref(), database_ref()
    if client is None or database is None or client.ended:
        return

    async def arun() -> None:
        try:
            _say(database, retained, await apurge(client, database, retained))
        except (TxcoordError, OSError) as error:
            log.info("rows of %s are purged later: %s", retained.table.name, error)

    def run() -> None:
        try:
            _say(database, retained, purge(client, database, retained))
        except (TxcoordError, OSError) as error:
            log.info("rows of %s are purged later: %s", retained.table.name, error)

    client.in_background(arun if database.is_async else run)
    _later(client_ref, database_ref, retained)


def _say(database: Database, retained: Retained, removed: int) -> None:
    if removed:
        log.info("purged %d rows of %s in database %s", removed, retained.table.name, database.id)
