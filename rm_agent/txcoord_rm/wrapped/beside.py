"""An engine of another driver beside an enrolled one, for wrapped connections of that driver. It never connects itself."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import create_async_engine
from txcoord_sdk.local_transaction import watch

from txcoord_rm.at.hook import hook, resource_of_engine
from txcoord_rm.at.resource import Resource
from txcoord_rm.capture.families import capture_for, flavour_of
from txcoord_rm.xa.hook import xa_of_engine


def beside(engine: Engine, drivername: str) -> Engine:
    """The one of another asynchronous driver, enrolled alike; always the same.

    Args:
        engine: Enrolled, asynchronous, of another driver of the same database.
        drivername: Of the URL, such as `postgresql+asyncpg`.
    """
    known: dict[str, Engine] = vars(engine.dialect).setdefault("_txcoord_beside", {})
    if drivername not in known:
        enrolled = resource_of_engine(engine)
        assert enrolled is not None, "it is enrolled"
        made = create_async_engine(engine.url.set(drivername=drivername, query={})).sync_engine
        flavour = flavour_of(made.dialect)
        resource = Resource(
            enrolled.client, enrolled.database, flavour, capture_for(flavour), enrolled.lock_wait, enrolled.local_writes
        )
        watch(made)
        hook(made, resource, xa_of_engine(engine))
        known[drivername] = made
    return known[drivername]
