"""A new text made of parts of the application's and of our own, and which parameters go with it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from txcoord_rm.sql.flavour import Binds
from txcoord_rm.sql.statement import Span, Statement

_OWN = "txcoord_"
_NUMBERED = re.compile(r"\$(\d+)")


class Splice:
    """Collects parts in order. Parameters of our own stand behind all of the application's.

    Args:
        statement: Whose text is spliced.
        binds: How it marks parameters: `PERCENT`, `DOLLAR`, or `NONE` where a driver of the first kind was given none.
    """

    def __init__(self, statement: Statement, binds: Binds) -> None:
        self._statement = statement
        self._binds = binds
        self._parts: list[str] = []
        self._order: list[int] = []
        self._own: list[str] = []
        self._by_name = binds is not Binds.DOLLAR and all(bind.text[1] == "(" for bind in statement.binds)
        numbers = (int(match[1]) for bind in statement.binds if (match := _NUMBERED.fullmatch(bind.text)))
        self._highest = max(numbers, default=0)

    def ours(self, text: str) -> Splice:
        """Add text of ours, in which there are no parameters."""
        self._parts.append(text if self._binds is Binds.DOLLAR else text.replace("%", "%%"))
        return self

    def theirs(self, span: Span | None) -> Splice:
        """Add a part of the application's text with its placeholders; a part that is missing adds nothing."""
        if span is not None:
            text = span.of(self._statement.sql)
            self._parts.append(text.replace("%", "%%") if self._binds is Binds.NONE else text)
            self._order += [n for n, bind in enumerate(self._statement.binds) if span.start <= bind.start < span.end]
        return self

    def parameter(self, name: str, cast: str) -> Splice:
        """Add a parameter of ours.

        Args:
            name: Its name, under which `Spliced.bind` is given it.
            cast: Its type in SQL.
        """
        self._own.append(name)
        number = f"${self._highest + len(self._own)}"
        mark = number if self._binds is Binds.DOLLAR else f"%({_OWN}{name})s" if self._by_name else "%s"
        self._parts.append(f"{mark}::{cast}")
        return self

    def spliced(self) -> Spliced:
        """The new text."""
        order = None if self._binds is Binds.DOLLAR else tuple(self._order)
        return Spliced("".join(self._parts), tuple(self._own), self._by_name, order)


class Spliced:
    """A text and the parameters that it takes.

    Args:
        sql: It.
        own: Names of our parameters, in order.
        by_name: Whether parameters go by name.
        order: Which of the application's parameters stand at which place; None: where they stood.
    """

    __slots__ = ("_by_name", "_order", "_own", "sql")

    def __init__(self, sql: str, own: tuple[str, ...], by_name: bool, order: tuple[int, ...] | None) -> None:
        self.sql = sql
        self._own = own
        self._by_name = by_name
        self._order = order

    def bind(self, parameters: Any, own: Mapping[str, object]) -> Sequence[object] | dict[str, object]:
        """The parameters of the new text.

        Args:
            parameters: Of the application: a mapping, a sequence, or None.
            own: Ours, by name.
        """
        if self._by_name:
            return {**(parameters or {}), **{_OWN + name: own[name] for name in self._own}}
        theirs = tuple(parameters or ()) if self._order is None else tuple(parameters[n] for n in self._order)
        return (*theirs, *(own[name] for name in self._own))
