"""Opens pages against a coordinator of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from txcoord_sdk.testing import CoordinatorProcess

from tests.docs.page import Page

OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(txcoord_coordinator: CoordinatorProcess, tmp_path: Path) -> Iterator[OpenPage]:
    """Gives a page by its name; its code finds the coordinator in TXCOORD_ADDRESS."""
    opened = []

    def open_it(name: str, replacements: dict[str, str] | None = None, **environment: Any) -> Page:
        page = Page(name, tmp_path, replacements, {"TXCOORD_ADDRESS": txcoord_coordinator.address, **environment})
        opened.append(page)
        return page

    yield open_it
    for page in opened:
        page.check_everything_ran()
