"""A new text made of parts of the application's and of our own, and the parameters it takes: ours has none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from txcoord_rm.sql.flavour import Binds
from txcoord_rm.sql.statement import Span, Statement

Part: TypeAlias = Span | str | None
"""Of the application's text, of ours, or nothing."""


def ours(text: str, parameters: Any, binds: Binds) -> str:
    """Text of ours as the driver wants it beside the application's parameters."""
    return text.replace("%", "%%") if binds is Binds.PERCENT and parameters is not None else text


def spliced(statement: Statement, parts: Iterable[Part], parameters: Any, binds: Binds) -> tuple[str, Any]:
    """The text and its parameters.

    Args:
        statement: Of the application.
        parts: In order.
        parameters: Of the application; None: the driver takes the text as it stands.
        binds: How the driver marks parameters.
    """
    text, order = list[str](), list[int]()
    for part in parts:
        if isinstance(part, str):
            text.append(ours(part, parameters, binds))
        elif part is not None:
            text.append(part.of(statement.sql))
            order += [n for n, bind in enumerate(statement.binds) if part.start <= bind.start < part.end]
    by_place = parameters is not None and not isinstance(parameters, Mapping)
    return "".join(text), tuple(parameters[n] for n in order) if by_place else parameters
