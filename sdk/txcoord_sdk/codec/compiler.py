"""From an annotation to its coder."""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import json
import operator
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args, get_origin

from txcoord_sdk.codec.coder import Coder, JsonKind, UnsupportedError, kind_of, wrong
from txcoord_sdk.codec.scalars import PLAIN, SCALARS

_TRANSPARENT = (typing.Annotated, typing.Required, typing.NotRequired, typing.Final)
_TEXT = frozenset({JsonKind.TEXT})
_ARRAY = frozenset({JsonKind.ARRAY})
_OBJECT = frozenset({JsonKind.OBJECT})
_MISSING: Any = object()


class Compiler:
    """Compiles annotations; types that contain themselves are compiled once."""

    def __init__(self) -> None:
        self._records: dict[type, Coder] = {}

    def coder(self, annotation: Any) -> Coder:
        """The coder of a type.

        Raises:
            UnsupportedError: Its values cannot be carried.
        """
        if annotation in (inspect.Parameter.empty, Any, object):
            return PLAIN
        if annotation is None:
            return SCALARS[type(None)]
        origin = get_origin(annotation)
        if origin in _TRANSPARENT:
            return self.coder(get_args(annotation)[0])
        if isinstance(annotation, typing.NewType):
            return self.coder(annotation.__supertype__)
        if hasattr(annotation, "__value__"):  # a `type` statement
            return self.coder(annotation.__value__)
        if origin is typing.Literal:
            return _literal(get_args(annotation))
        if origin in (typing.Union, types.UnionType):
            return self._union(get_args(annotation))
        if annotation in SCALARS:
            return SCALARS[annotation]
        kind = origin or annotation
        if not isinstance(kind, type):
            raise UnsupportedError(f"{annotation!r} cannot be carried")
        return self._class(kind, get_args(annotation))

    def _class(self, kind: type, args: tuple[Any, ...]) -> Coder:
        if issubclass(kind, enum.Enum):
            return _enum(kind)
        if kind in (list, set, frozenset):
            return self._collection(kind, args)
        if kind is tuple:
            return self._tuple(args)
        if kind is dict:
            return self._dict(args)
        if args:
            raise UnsupportedError(f"{kind.__qualname__}[...] cannot be carried")
        if dataclasses.is_dataclass(kind):
            return self._record(kind, _dataclass_shape)
        if typing.is_typeddict(kind):
            return self._record(kind, _typeddict_shape)
        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            return self._record(kind, _namedtuple_shape)
        if _is_pydantic(kind):
            return _model(kind)
        raise UnsupportedError(f"{kind.__qualname__} cannot be carried")

    # ------------------------------------------------------------ containers

    def _collection(self, kind: Any, args: tuple[Any, ...]) -> Coder:
        item = self.coder(args[0]) if args else PLAIN

        def encode(value: Any) -> list[Any]:
            if not isinstance(value, kind):
                raise wrong(value, kind.__name__)
            encoded = [_at(i, item.encode, v) for i, v in enumerate(value)]
            return encoded if kind is list else sorted(encoded, key=json.dumps)

        return Coder(encode, lambda v: kind(item.decode(x) for x in _array(v)), (kind,), _ARRAY)

    def _tuple(self, args: tuple[Any, ...]) -> Coder:
        if not args or args[-1] is Ellipsis:
            item = self.coder(args[0]) if args else PLAIN

            def members(length: int) -> Sequence[Coder]:
                return [item] * length
        else:
            fixed = [self.coder(a) for a in args if a != ()]

            def members(length: int) -> Sequence[Coder]:
                if length != len(fixed):
                    raise TypeError(f"{length} members instead of {len(fixed)}")
                return fixed

        def encode(value: Any) -> list[Any]:
            if not isinstance(value, tuple):
                raise wrong(value, "tuple")
            return [_at(i, m.encode, v) for i, (m, v) in enumerate(zip(members(len(value)), value, strict=True))]

        def decode(value: Any) -> tuple[Any, ...]:
            return tuple(m.decode(v) for m, v in zip(members(len(_array(value))), value, strict=True))

        return Coder(encode, decode, (tuple,), _ARRAY)

    def _dict(self, args: tuple[Any, ...]) -> Coder:
        """An object where all keys are text in JSON, else a list of pairs."""
        key, item = (self.coder(a) for a in args) if args else (SCALARS[str], PLAIN)
        named = key.kinds == _TEXT

        def encode(value: Any) -> Any:
            if not isinstance(value, dict):
                raise wrong(value, "dict")
            pairs = [(_at("key", key.encode, k), _at(k, item.encode, v)) for k, v in value.items()]
            return dict(pairs) if named else [list(pair) for pair in pairs]

        def decode(value: Any) -> dict[Any, Any]:
            pairs = _object(value).items() if named else _array(value)
            return {key.decode(k): item.decode(v) for k, v in pairs}

        return Coder(encode, decode, (dict,), _OBJECT if named else _ARRAY)

    def _union(self, members: tuple[Any, ...]) -> Coder:
        """Members are told apart by what they are in JSON, so that the text stays readable and survives their reordering."""
        coders = [self.coder(m) for m in members]
        if len(coders) == 2 and type(None) in members:  # `X | None`, also of what is written like anything
            only = coders[members.index(type(None)) - 1]
            return Coder(
                lambda v: None if v is None else only.encode(v),
                lambda v: None if v is None else only.decode(v),
                (*only.types, type(None)),
                only.kinds | {JsonKind.NULL},
            )
        by_kind: dict[JsonKind, Coder] = {}
        for member, coder in zip(members, coders, strict=True):
            for kind in coder.kinds:
                if by_kind.setdefault(kind, coder) is not coder:
                    raise UnsupportedError(
                        f"the members of {' | '.join(_name(m) for m in members)} cannot be told apart in JSON (both are "
                        f"{kind.name.lower()}, as is {_name(member)}): use one type, or a dataclass with a field for each"
                    )
        by_type = {t: coder for coder in reversed(coders) for t in coder.types}

        def encode(value: Any) -> Any:
            coder = by_type.get(type(value))
            if coder is None:
                coder = next((c for c in coders if isinstance(value, c.types)), None)
            if coder is None:
                raise wrong(value, " | ".join(_name(m) for m in members))
            return coder.encode(value)

        return Coder(
            encode,
            lambda v: by_kind[kind_of(v)].decode(v),
            tuple(by_type),
            frozenset(by_kind),
        )

    # ------------------------------------------------------------ records

    def _record(self, kind: type, shape_of: Callable[[type], Shape]) -> Coder:
        """Fields by name; the coder is known to itself before its fields are compiled."""
        if kind in self._records:
            return self._records[kind]
        fields: dict[str, Coder] = {}
        shape = shape_of(kind)
        taken = dict if shape.is_dict else kind

        def encode(value: Any) -> dict[str, Any]:
            if type(value) is not taken:  # fields of a subclass would be lost
                raise wrong(value, kind.__qualname__)
            values = shape.values(value)
            unknown = values.keys() - fields.keys()
            if unknown or not shape.required <= values.keys():
                raise TypeError(f"not a {kind.__qualname__}: {sorted(unknown or shape.required - values.keys())}")
            return {name: _at(name, fields[name].encode, v) for name, v in values.items()}

        def decode(value: Any) -> Any:
            return shape.make({name: fields[name].decode(v) for name, v in _object(value).items()})

        made = self._records[kind] = Coder(encode, decode, (taken,), _OBJECT)
        for name, hint in shape.hints.items():
            try:
                fields[name] = self.coder(hint)
            except UnsupportedError as error:
                raise UnsupportedError(f"{kind.__qualname__}.{name}: {error}") from error
        return made


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """Of a class with named fields.

    Args:
        hints: Type of each field.
        required: Fields that every value has.
        values: Fields of a value.
        make: A value from its fields; TypeError where a field is missing.
        is_dict: Whether values are plain dictionaries.
    """

    hints: Mapping[str, Any]
    required: frozenset[str]
    values: Callable[[Any], Mapping[str, Any]]
    make: Callable[[dict[str, Any]], Any]
    is_dict: bool = False


def _dataclass_shape(kind: type) -> Shape:
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = dataclasses.fields(kind)
    names = [f.name for f in fields]
    derived = [f.name for f in fields if not f.init]
    wanted = {p.name for p in inspect.signature(kind).parameters.values() if p.default is p.empty}
    if strange := wanted - set(names):
        raise UnsupportedError(
            f"{kind.__qualname__} cannot be made anew: its constructor wants {sorted(strange)}, which it does not keep"
        )

    def make(values: dict[str, Any]) -> Any:
        later = {name: values.pop(name, _MISSING) for name in derived}
        made = kind(**values)
        for name, value in later.items():
            if value is not _MISSING:
                object.__setattr__(made, name, value)
        return made

    return Shape({n: hints[n] for n in names}, frozenset(names), lambda v: {n: getattr(v, n) for n in names}, make)


def _namedtuple_shape(kind: type) -> Shape:
    names: tuple[str, ...] = kind._fields  # type: ignore[attr-defined]
    hints = typing.get_type_hints(kind, include_extras=True)
    hints = {n: hints.get(n, inspect.Parameter.empty) for n in names}
    return Shape(hints, frozenset(names), lambda v: dict(zip(names, v, strict=True)), lambda values: kind(**values))


def _typeddict_shape(kind: type) -> Shape:
    hints = typing.get_type_hints(kind, include_extras=True)
    total: frozenset[str] = kind.__required_keys__  # type: ignore[attr-defined]
    # `from __future__ import annotations` hides NotRequired from the class itself
    required = frozenset(
        name
        for name, hint in hints.items()
        if get_origin(hint) is typing.Required or (name in total and get_origin(hint) is not typing.NotRequired)
    )

    def make(values: dict[str, Any]) -> dict[str, Any]:
        if not required <= values.keys():
            raise TypeError(f"not a {kind.__qualname__}: {sorted(required - values.keys())} are missing")
        return values

    return Shape(hints, required, lambda v: v, make, is_dict=True)


# ---------------------------------------------------------------- others


def _enum(kind: type[enum.Enum]) -> Coder:
    """By name: values may be renumbered. Of a Flag the names of its bits, joined by `|`."""
    if not issubclass(kind, enum.Flag):

        def encode(value: Any) -> str:
            if not isinstance(value, kind):
                raise wrong(value, kind.__name__)
            return value.name

        return Coder(encode, lambda name: kind[name], (kind,), _TEXT)
    none = kind(0)

    def decode_flag(names: str) -> Any:
        return functools.reduce(operator.or_, (kind[n] for n in names.split("|")), none) if names else none

    def encode_flag(value: Any) -> str:
        if not isinstance(value, kind):
            raise wrong(value, kind.__name__)
        names = "|".join(str(bit.name) for bit in value)
        if decode_flag(names) != value:
            raise ValueError(f"{value!r} has bits without a name")
        return names

    return Coder(encode_flag, decode_flag, (kind,), _TEXT)


def _literal(values: tuple[Any, ...]) -> Coder:
    """Each of the values is written as its own type is."""
    coders = {type(v): _enum(type(v)) if isinstance(v, enum.Enum) else SCALARS[type(v)] for v in values}
    written = [(type(v), coders[type(v)].encode(v)) for v in values]
    by_json = {(type(j), j): v for (_, j), v in zip(written, values, strict=True)}
    if len(by_json) < len(values):
        raise UnsupportedError(f"values of Literal{list(values)} cannot be told apart in JSON")
    allowed = set(written)

    def encode(value: Any) -> Any:
        coder = coders.get(type(value))
        json = coder.encode(value) if coder is not None else None
        if coder is None or (type(value), json) not in allowed:
            raise ValueError(f"{value!r} is not one of {values}")
        return json

    kinds = frozenset(kind for coder in coders.values() for kind in coder.kinds)
    return Coder(encode, lambda v: by_json[type(v), v], tuple(coders), kinds)


def _is_pydantic(kind: type) -> bool:
    """Whether it is a model of Pydantic 2, which is imported where such a class exists."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(kind, pydantic.BaseModel) and hasattr(kind, "model_validate")


def _model(kind: Any) -> Coder:
    """As the model itself writes and reads it; a model that does not read back what it wrote is refused at the call."""

    def encode(value: Any) -> Any:
        if type(value) is not kind:
            raise wrong(value, kind.__qualname__)
        written = value.model_dump(mode="json", by_alias=True, round_trip=True)
        try:
            unlike = kind.model_validate(written) != value
        except ValueError:
            unlike = True
        if unlike:
            raise ValueError(
                f"{kind.__qualname__} does not read back what it writes as JSON; use a dataclass, or give it serialisers"
            )
        return written

    root = "root" in kind.model_fields and kind.model_fields.keys() == {"root"}
    return Coder(encode, kind.model_validate, (kind,), frozenset(JsonKind) if root else _OBJECT)


def _array(json: Any) -> list[Any]:
    if not isinstance(json, list):
        raise wrong(json, "a list")
    return json


def _object(json: Any) -> dict[str, Any]:
    if not isinstance(json, dict):
        raise wrong(json, "an object")
    return json


def _at(place: object, encode: Callable[[Any], Any], value: Any) -> Any:
    """Encode, saying where it failed."""
    try:
        return encode(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"[{place}] {error}") from error


def _name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
