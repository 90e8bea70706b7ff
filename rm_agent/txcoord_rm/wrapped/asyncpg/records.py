"""asyncpg's records of captured statements, in which the application sees its own columns only.

Records can be made by the driver alone. So a captured statement's are asked for as ones of a class that is made here, and once it
is known which columns are the application's, each becomes one of a class that shows these.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple


class Shown(NamedTuple):
    """Columns of a record."""

    record: Any
    columns: slice

    def made(self) -> Any:
        """The record that the application gets."""
        kind = type(self.record)
        start, stop, _ = self.columns.indices(len(self.record))
        self.record.__class__ = _window(kind.__bases__[-1], start, stop)
        return self.record


class _Whole:
    """Mixed in before a class of records: a slice of one is no tuple, but says what shall be shown."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        return Shown(self, key) if isinstance(key, slice) else super().__getitem__(key)  # type: ignore[misc]


@lru_cache
def whole(record_class: type) -> type:
    """What records of `record_class` are while capturing looks at them."""
    return type(record_class.__name__, (_Whole, record_class), {"__slots__": ()})


@lru_cache
def _window(record_class: type, start: int, stop: int) -> type:
    """What they are when they show columns from `start` up to `stop`."""
    rows = tuple, record_class.__mro__[-2]
    shows = {"__slots__": (), "_start": start, "_stop": stop, "_rows": rows, "__module__": record_class.__module__}
    return type(record_class.__name__, (_Window, record_class), shows)


def _compared(compare: Callable[[Any, Any], bool]) -> Any:
    """A method that compares a record with a tuple or record; asyncpg compares one with nothing else."""

    def method(self: Any, other: Any) -> Any:
        return compare(tuple(self), tuple(other)) if isinstance(other, self._rows) else NotImplemented

    return method


class _Window:
    """Mixed in before a class of records. Each method is asyncpg's, on fewer columns."""

    __slots__ = ()
    _start: int
    _stop: int
    _rows: tuple[type, ...]
    """Tuples and records."""

    def keys(self) -> Iterator[str]:
        return iter(tuple(super().keys())[self._start : self._stop])  # type: ignore[misc]

    def values(self) -> Iterator[Any]:
        return iter(self)

    def items(self) -> Iterator[tuple[str, Any]]:
        return zip(self.keys(), self.values(), strict=True)

    def get(self, key: str, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            places = [place for place, name in enumerate(self.keys()) if name == key]
            if not places:
                raise KeyError(key)
            return super().__getitem__(self._start + places[-1])  # type: ignore[misc]
        if isinstance(key, slice):
            return tuple(self)[key]
        try:
            return super().__getitem__(range(self._start, self._stop)[key])  # type: ignore[misc]
        except IndexError:
            raise IndexError("record index out of range") from None

    def __len__(self) -> int:
        return self._stop - self._start

    def __iter__(self) -> Iterator[Any]:
        return iter([super(_Window, self).__getitem__(place) for place in range(self._start, self._stop)])  # type: ignore[misc]

    def __contains__(self, key: object) -> bool:
        return key in tuple(self.keys())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {' '.join(f'{name}={value!r}' for name, value in self.items())}>"

    def __hash__(self) -> int:
        return hash(tuple(self))

    __eq__, __lt__, __le__ = _compared(operator.eq), _compared(operator.lt), _compared(operator.le)
    __gt__, __ge__ = _compared(operator.gt), _compared(operator.ge)
