"""The one line with which an engine takes part in global transactions."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from txcoord_proto.errors import ConfigurationError
from txcoord_sdk.client import Client, default_client
from txcoord_sdk.transaction.isolation import Isolation, isolation_of

from txcoord_rm.at.hook import hook, resource_of_engine
from txcoord_rm.at.participant import serve_second_phases
from txcoord_rm.at.resource import LocalWrites, Resource
from txcoord_rm.capture.families import capture_for, flavour_of
from txcoord_rm.undo.log import metadata
from txcoord_rm.xa.hook import xa_of_engine
from txcoord_rm.xa.mode import Mode, mode_of
from txcoord_rm.xa.participant import serve
from txcoord_rm.xa.resource import XaResource, preparing_for

LOCK_WAIT = 10.0


def enroll(
    engine: Engine | AsyncEngine,
    client: Client | None = None,
    *,
    mode: str = "at",
    name: str = "",
    lock_wait: float = LOCK_WAIT,
    local_writes: str = LocalWrites.IGNORE,
    isolation: str = Isolation.READ_UNCOMMITTED,
) -> None:
    """Have an engine's statements inside global transactions captured, so that a global rollback puts every row back.

    Outside global transactions nothing changes. Calling it again for the same engine and client does nothing.

    Args:
        engine: SQLAlchemy Engine or AsyncEngine; all that use it take part.
        client: Of this service; None: the one that `connect` made last.
        mode: `at`: local transactions commit at once, and what they changed is put back by a global rollback. `xa`: the database
            prepares them, and ends them as decided. `txcoord_rm.mode` says so for a block.
        name: Of the database, where the client is bound to several; see `Client.bind`.
        lock_wait: Seconds that a statement waits for a row which another global transaction holds.
        local_writes: What becomes of writes outside global transactions: "ignore", they may overwrite rows of an unfinished one,
            which then cannot be rolled back by itself; "check", they wait for such rows; "refuse", they are an error.
        isolation: What plain reads inside global transactions see of others, where neither block nor function says so; see
            `txcoord_rm.isolation`.

    Raises:
        ConfigurationError: The engine does not fit, or belongs to another client.
    """
    if local_writes not in list(LocalWrites):
        raise ConfigurationError(f"local_writes={local_writes!r}: use one of {', '.join(LocalWrites)}")
    wanted, level, client = mode_of(mode), isolation_of(isolation), client or default_client()
    if wanted is Mode.XA and level is not Isolation.READ_UNCOMMITTED:
        raise ConfigurationError(
            f"isolation={isolation!r} needs global locks, which mode='xa' does not take: enrol it in mode 'at'"
        )
    sync_engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    if (known := resource_of_engine(sync_engine)) is not None:
        if known.client is not client:
            raise ConfigurationError(
                f"{sync_engine.url!r} is enrolled with another client already: one engine belongs to one client; make a second "
                "engine for the second client"
            )
        if (xa := xa_of_engine(sync_engine)) is not None and xa.mode is not wanted:
            raise ConfigurationError(
                f"{sync_engine.url!r} is enrolled in mode {xa.mode.value!r} already: `with txcoord_rm.mode({mode!r}):` makes a "
                "block of another mode"
            )
        if level not in (Isolation.READ_UNCOMMITTED, known.isolation):
            raise ConfigurationError(
                f"{sync_engine.url!r} is enrolled with isolation={known.isolation.value!r} already: say {isolation!r} where it "
                "is enrolled first"
            )
        return
    if (database := client.databases.of(sync_engine)) is None:
        client.bind(engine, name=name)
        database = client.databases.get(name)
    dialect = sync_engine.dialect
    if wanted is Mode.XA:
        preparing_for(dialect)
    flavour = flavour_of(dialect)
    resource = Resource(client, database, flavour, capture_for(flavour), lock_wait, LocalWrites(local_writes), level)
    if dialect.name == "sqlite":
        database.add_tables(metadata)
        hook(sync_engine, resource, None)
        client.when_started(lambda started: serve_second_phases(started, database))
        return
    xa = XaResource(resource, dialect, wanted)
    if wanted is Mode.AT:
        database.add_tables(metadata)
    hook(sync_engine, resource, xa)
    client.when_started(lambda started: serve(started, xa, wanted is Mode.AT))
