"""A coordinator for all tests that need none of their own, and clients of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from txcoord_sdk import Client, connect
from txcoord_sdk.testing import CoordinatorProcess

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def coordinator() -> Iterator[CoordinatorProcess]:
    with CoordinatorProcess() as process:
        yield process


@pytest.fixture
def connected(coordinator: CoordinatorProcess) -> Iterator[Callable[..., Client]]:
    """Makes clients; each of a service of its own unless named."""
    clients: list[Client] = []

    def make(service: str = "") -> Client:
        clients.append(connect(coordinator.address, service=service or f"service{next(_numbers)}"))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
