"""Sessions among a function's arguments that hold changes which nobody has written yet."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session


def unsaved_session(values: Iterable[object]) -> str:
    """The first such session of `values`, for people; empty: none.

    Their flush comes later, mostly in a dependency's exit, and would be no part of a transaction that has ended by then.
    """
    for value in values:
        session = value.sync_session if isinstance(value, AsyncSession) else value
        if isinstance(session, Session) and (
            session.new or session.deleted or any(session.is_modified(instance) for instance in session.dirty)
        ):
            return f"the session {value!r} among its arguments"
    return ""
