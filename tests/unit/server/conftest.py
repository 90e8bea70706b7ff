"""A leader for the tests of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from txcoord_server.engine.node import Node

from tests.unit.server.leader import make_node


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A node that leads."""
    node = make_node(tmp_path)
    running = asyncio.ensure_future(node.run())
    await node.placed.wait()
    yield node
    node.stop()
    await running
