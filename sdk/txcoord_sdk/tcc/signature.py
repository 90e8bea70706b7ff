"""What the parameters of a TCC function say: which one is the database, and which are carried to confirm and cancel."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session
from txcoord_proto.errors import ConfigurationError

from txcoord_sdk.codec import annotations_of

DATABASE_TYPES = (Connection, Session, AsyncConnection, AsyncSession)
_ASYNC_TYPES = (AsyncConnection, AsyncSession)
_SCOPED = (scoped_session, async_scoped_session)


@dataclass(frozen=True, slots=True)
class TccSignature:
    """Of one function.

    Args:
        function: It.
        is_async: Whether it is a coroutine function.
        is_method: Whether its first parameter is `self`.
        database: Name of the parameter that is the database, empty when there is none.
        database_place: Where it stands among the others.
        database_type: Its annotation.
        carried: The other parameters with their annotations, in order.
        defaults: Of those that have one.
    """

    function: Callable[..., Any]
    is_async: bool
    is_method: bool
    database: str
    database_place: int
    database_type: type | None
    carried: dict[str, Any]
    defaults: dict[str, Any]

    @classmethod
    def of(cls, function: Callable[..., Any], action: str) -> TccSignature:
        """Read a function's signature.

        Raises:
            ConfigurationError: It cannot be part of an action.
        """
        where = f"{action}: {getattr(function, '__qualname__', function)}"
        if not inspect.isfunction(function):
            raise ConfigurationError(
                f"{where}: write a function; staticmethod and classmethod do not fit, take `self` or nothing"
            )
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigurationError(f"{where} is a generator; write a plain or async function")
        parameters = inspect.signature(function).parameters
        for parameter in parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise ConfigurationError(f"{where}: parameter {parameter.name!r}: arguments travel by name, so each needs one")
        annotations = annotations_of(function)
        is_method = next(iter(annotations), "") == "self"
        if is_method:
            del annotations["self"]
        databases = {n: kind for n, a in annotations.items() if (kind := _database_type(a)) is not None}
        if len(databases) > 1:
            raise ConfigurationError(f"{where} has {len(databases)} database parameters; an action works on one database")
        name, kind = next(iter(databases.items()), ("", None))
        is_async = inspect.iscoroutinefunction(function)
        if kind is not None and issubclass(kind, _ASYNC_TYPES) is not is_async:
            raise ConfigurationError(f"{where}: an {'async' if is_async else 'ordinary'} function cannot use a {kind.__name__}")
        carried = {n: a for n, a in annotations.items() if n != name}
        defaults = {n: p.default for n, p in parameters.items() if n in carried and p.default is not p.empty}
        place = list(annotations).index(name) if name else -1
        return cls(function, is_async, is_method, name, place, kind, carried, defaults)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """Arguments of a call without `self`: the carried ones by name, and the database if it was passed.

        The database may be left out wherever it stands; `None` counts as left out.

        Raises:
            TypeError: As a call of the function itself would.
        """
        names = list(self.carried)
        given = None
        if self.database:
            place = self.database_place
            if place < len(args) and isinstance(args[place], (*DATABASE_TYPES, *_SCOPED)):
                given, args = args[place], args[:place] + args[place + 1 :]
            elif self.database in kwargs:
                kwargs = dict(kwargs)
                given = kwargs.pop(self.database)
            if isinstance(given, _SCOPED):
                given = given()
        if len(args) > len(names):
            raise TypeError(
                f"{self.function.__qualname__}() takes {len(names)} arguments besides the database, {len(args)} were given"
            )
        values = dict(zip(names, args))
        for name, value in kwargs.items():
            if name in values or name not in self.carried:
                raise TypeError(
                    f"{self.function.__qualname__}() got {'two values for' if name in values else 'an unexpected'} {name!r}"
                )
            values[name] = value
        if len(values) < len(names):
            values = {**self.defaults, **values}
            if missing := [n for n in names if n not in values]:
                raise TypeError(f"{self.function.__qualname__}() misses {', '.join(map(repr, missing))}")
        if given is not None and self.database_type is not None and not isinstance(given, self.database_type):
            raise TypeError(
                f"{self.function.__qualname__}() wants a {self.database_type.__name__} as {self.database!r}, not "
                f"{type(given).__name__}"
            )
        return values, given

    def call(self, instance: Any, arguments: Mapping[str, Any], database: Any = None) -> Any:
        """Call the function; of an async one this is a coroutine."""
        if self.database:
            arguments = {**arguments, self.database: database}
        return self.function(instance, **arguments) if self.is_method else self.function(**arguments)

    def call_on(self, connection: Connection, instance: Any, arguments: Mapping[str, Any]) -> Any:
        """Call a plain function on a connection, through a session if it wants one."""
        if self.database_type is None or not issubclass(self.database_type, Session):
            return self.call(instance, arguments, connection)
        with self.database_type(bind=connection) as session:
            result = self.call(instance, arguments, session)
            session.flush()
        return result

    async def acall_on(self, connection: AsyncConnection, instance: Any, arguments: Mapping[str, Any]) -> Any:
        """Call an async function on a connection, through a session if it wants one."""
        if self.database_type is None or not issubclass(self.database_type, AsyncSession):
            return await self.call(instance, arguments, connection)
        async with self.database_type(bind=connection) as session:
            result = await self.call(instance, arguments, session)
            await session.flush()
        return result


@functools.cache
def _database_type(annotation: Any) -> type | None:
    """The class of SQLAlchemy that an annotation means: itself, `X | None`, or `Annotated[X, ...]`."""
    origin = get_origin(annotation)
    if origin is typing.Annotated:
        return _database_type(get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        members = [a for a in get_args(annotation) if a is not type(None)]
        return _database_type(members[0]) if len(members) == 1 else None
    if isinstance(annotation, type) and issubclass(annotation, DATABASE_TYPES):
        return annotation
    return None
