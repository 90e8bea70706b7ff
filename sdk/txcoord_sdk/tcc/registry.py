"""Which actions this process serves, and telling the client about them as soon as both are there."""

from __future__ import annotations

import weakref
from typing import Any

from txcoord_proto.errors import ConfigurationError

from txcoord_sdk.client import Client, on_client
from txcoord_sdk.tcc.action import Action
from txcoord_sdk.tcc.cleaning import keep_clean
from txcoord_sdk.tcc.second_phase import TccParticipant

_announced: dict[tuple[int, str], weakref.ref[Action]] = {}


def announce(action: Action, client: Client | None, instance: Any = None) -> None:
    """Serve `action` through `client`; None: through the default one, once it exists.

    Raises:
        ConfigurationError: Another action of this process has its name.
    """
    place = (0 if client is None else id(client), action.name)
    known = _announced.get(place)
    if known is not None and known() not in (None, action):
        raise ConfigurationError(f"there are two actions {action.name!r} in this process: names are unique in a service")
    action.parts  # noqa: B018 - refuses an action that lacks one
    _announced[place] = weakref.ref(action)
    on_client(client, lambda c: _serve(c, action, instance))


def _serve(client: Client, action: Action, instance: Any) -> None:
    if not action.uses_database:
        client.serve(action.resource(client.service, ""), TccParticipant(action, None, instance))
        return
    database = client.databases.get(action.database_name)
    action.check_engine(database.is_async)
    participant = TccParticipant(action, database, instance)

    def ready(database_id: str) -> None:
        client.serve(action.resource(client.service, database_id), participant)
        keep_clean(client, database)

    client.when_prepared(database, ready)
