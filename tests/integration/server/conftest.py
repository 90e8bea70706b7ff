"""A store of each kind, and coordinators on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from txcoord_sdk.testing import CoordinatorProcess

from tests.integration.server.desk import Desk
from tests.integration.server.participant import Participant
from tests.integration.server.stub import STOCK
from tests.servers import TcpProxy
from tests.servers.fixtures import FreshUrl

Start = Callable[[str], CoordinatorProcess]


def _fresh(request: pytest.FixtureRequest) -> str:
    fresh: FreshUrl = request.getfixturevalue(f"fresh_{request.param}_url")
    return fresh()


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new store."""
    return f"sqlite:///{tmp_path}/store.db" if request.param == "sqlite" else _fresh(request)


@pytest.fixture(params=["postgres", "mariadb"])
def server_url(request: pytest.FixtureRequest) -> str:
    """A new store on a database server."""
    return _fresh(request)


@pytest.fixture
def proxy(server_url: str) -> Iterator[TcpProxy]:
    """A way to that store that fails on demand."""
    with TcpProxy(server_url) as proxy:
        yield proxy


@pytest.fixture
def start(url: str) -> Iterator[Start]:
    """Starts further coordinators on one store."""
    with ExitStack() as stack:

        def make(name: str) -> CoordinatorProcess:
            return stack.enter_context(CoordinatorProcess(url, options=("--node", name)))

        yield make


@pytest.fixture
def desk(coordinator: CoordinatorProcess) -> Iterator[Desk]:
    """An operator's desk at the module's coordinator."""
    with Desk(coordinator.address) as desk:
        yield desk


@pytest.fixture
def stock(coordinator: CoordinatorProcess) -> Iterator[Participant]:
    """A participant of the module's coordinator."""
    with Participant(coordinator.address, STOCK) as participant:
        yield participant
