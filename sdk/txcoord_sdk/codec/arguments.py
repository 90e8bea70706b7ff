"""The arguments of one function, by name."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from txcoord_proto.errors import ConfigurationError, InvalidArgumentError

from txcoord_sdk.codec.coder import UnsupportedError
from txcoord_sdk.codec.compiler import Compiler

_REMEDY = (
    "annotate it with str, int, float, bool, Decimal, datetime, date, time, timedelta, UUID, an Enum, bytes, a list, tuple, set "
    "or dict of these, a dataclass, TypedDict, NamedTuple or Pydantic model, or pass a key and read the rest from the database"
)
_FORMAT = "@format"
"""Key of what a later version of this codec may say about itself; no parameter has such a name. Without it: the first format."""
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


class ArgumentPlan:
    """How one function's arguments are carried.

    Args:
        name: Of the action, for messages.
        annotations: Of the parameters that are carried, resolved, in order.

    Raises:
        ConfigurationError: A parameter cannot be carried.
    """

    def __init__(self, name: str, annotations: Mapping[str, Any]) -> None:
        compiler = Compiler()
        self._name = name
        self._coders = {}
        for parameter, annotation in annotations.items():
            try:
                self._coders[parameter] = compiler.coder(annotation)
            except (TypeError, NameError, RecursionError) as error:
                why = error if isinstance(error, UnsupportedError) else f"{annotation!r} cannot be carried: {error!r}"
                raise ConfigurationError(
                    f"{name}: parameter {parameter!r} cannot be passed to confirm and cancel, {why}: {_REMEDY}"
                ) from error

    def encode(self, arguments: Mapping[str, Any]) -> bytes:
        """Arguments as JSON in UTF-8.

        Raises:
            InvalidArgumentError: A value is not of its parameter's type, or its type is not shown in JSON.
        """
        encoded = {}
        for parameter, value in arguments.items():
            try:
                encoded[parameter] = self._coders[parameter].encode(value)
            except (TypeError, ValueError, RecursionError) as error:
                raise InvalidArgumentError(
                    f"{self._name}: argument {parameter!r} cannot be passed to confirm and cancel: {error}", {"field": parameter}
                ) from error
        return _to_json(encoded).encode()

    def decode(self, data: bytes, wanted: Iterable[str]) -> dict[str, Any]:
        """The wanted arguments from their JSON; one that was not carried is left out.

        Raises:
            InvalidArgumentError: The text does not fit the parameters: they changed while transactions were open.
        """
        try:
            values = dict(json.loads(data).items())
            if _FORMAT in values:
                raise ValueError(f"written in format {values[_FORMAT]!r} by a newer version of txcoord")
            return {p: self._coders[p].decode(values[p]) for p in wanted if p in values}
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            raise InvalidArgumentError(
                f"{self._name}: stored arguments do not fit its parameters any more ({error!r}): deploy the version of the "
                "service that stored them, or settle the branch by hand"
            ) from error


def annotations_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of a function's parameters, resolved; `inspect.Parameter.empty` where there is none.

    Raises:
        ConfigurationError: An annotation names something that is not there at run time.
    """
    parameters = inspect.signature(function).parameters
    written = {n: a for n, a in getattr(function, "__annotations__", {}).items() if n in parameters}
    holder = types.SimpleNamespace(__annotations__=written)
    names = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        hints = typing.get_type_hints(holder, globalns=names, include_extras=True)
    except (NameError, TypeError) as error:
        raise ConfigurationError(
            f"{function.__qualname__}: {error}; its annotations must be importable at run time (not only under TYPE_CHECKING), "
            "since arguments are stored by type"
        ) from error
    return {name: hints.get(name, inspect.Parameter.empty) for name in parameters}
