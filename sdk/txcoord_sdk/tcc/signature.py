"""What the parameters of a TCC function say: which one is the database, and which are carried to confirm and cancel."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session
from txcoord_proto.errors import ConfigurationError

from txcoord_sdk.codec import annotations_of

DATABASE_TYPES = (Connection, Session, AsyncConnection, AsyncSession)
ASYNC_TYPES = (AsyncConnection, AsyncSession)


@dataclass(frozen=True, slots=True)
class TccSignature:
    """Of one function.

    Args:
        function: It.
        is_async: Whether it is a coroutine function.
        bound_self: Whether its first parameter is `self`: it is a method.
        database: Name of the parameter that is the database, empty when there is none.
        database_type: Its annotation.
        carried: The other parameters with their annotations, in order.
    """

    function: Callable[..., Any]
    is_async: bool
    bound_self: bool
    database: str
    database_type: type | None
    carried: dict[str, Any]

    @classmethod
    def of(cls, function: Callable[..., Any], action: str) -> TccSignature:
        """Read a function's signature.

        Raises:
            ConfigurationError: It cannot be part of an action.
        """
        where = f"{action}: {function.__qualname__}"
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigurationError(f"{where} is a generator; write a plain or async function")
        annotations = annotations_of(function)
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise ConfigurationError(f"{where}: parameter {parameter.name!r}: arguments travel by name, so each needs one")
        bound_self = next(iter(annotations), "") == "self"
        if bound_self:
            del annotations["self"]
        databases = {n: a for n, a in annotations.items() if isinstance(a, type) and issubclass(a, DATABASE_TYPES)}
        if len(databases) > 1:
            raise ConfigurationError(f"{where} has {len(databases)} database parameters; an action works on one database")
        name, kind = next(iter(databases.items()), ("", None))
        is_async = inspect.iscoroutinefunction(function)
        if kind is not None and issubclass(kind, ASYNC_TYPES) is not is_async:
            raise ConfigurationError(f"{where}: an {'async' if is_async else 'ordinary'} function cannot use a {kind.__name__}")
        carried = {n: a for n, a in annotations.items() if n != name}
        return cls(function, is_async, bound_self, name, kind, carried)
