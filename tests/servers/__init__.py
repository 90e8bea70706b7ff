"""Real servers for tests, demos and benches, in one place.

    from tests.servers import running, fresh_database

    with running("postgres") as server, fresh_database(server) as url: ...

or `python -m tests.servers postgres mariadb --for COMMAND`; tests take the fixtures of `tests.servers.fixtures`. A server is
what the environment names (`TXCOORD_TEST_POSTGRES` ...), else a container where an engine answers, else a process started from
the distribution's packages on a free port. None outlives the process that started it.
"""

from __future__ import annotations

from txcoord_sdk.testing import free_port

from tests.servers.databases import fresh_database
from tests.servers.proxy import Direction, TcpProxy, Traffic
from tests.servers.running import RECIPES, running
from tests.servers.server import Absence, NotOursError, Origin, Server, ServerName, UnavailableError

__all__ = [
    "RECIPES",
    "Absence",
    "Direction",
    "NotOursError",
    "Origin",
    "Server",
    "ServerName",
    "TcpProxy",
    "Traffic",
    "UnavailableError",
    "free_port",
    "fresh_database",
    "running",
]
