"""What the suite leaves out to stay within its time."""

from __future__ import annotations

import pytest
from txcoord_proto.failpoints import Mode

_ONCE = (Mode.IN, Mode.UNKNOWN)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On MariaDB run the two modes that depend on the database, and of its store's commit, which is one text, all."""
    left_out = []
    for item in items:
        case = getattr(getattr(item, "callspec", None), "params", {})
        if case.get("made") == "mariadb" and case.get("mode", Mode.IN) not in _ONCE and "nth" not in case:
            left_out.append(item)
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
