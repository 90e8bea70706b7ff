"""Coders of single values.

Exactness first: a value arrives as it left or is refused. So NaN and infinities of `float` are refused, since JSON has no number
for them (`Decimal` carries its own), and so is text with half a surrogate pair, which has no UTF-8. A datetime keeps its offset,
and with a `ZoneInfo` also the name of its zone, in the form of RFC 9557: `2026-03-01T09:00:00+01:00[Europe/Berlin]`.
"""

from __future__ import annotations

import base64
import datetime as dt
import math
import re
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from txcoord_sdk.codec.coder import Coder, JsonKind, wrong

# Python converts no longer decimal texts to integers (sys.set_int_max_str_digits), so JSON could not be read back.
_MAX_INT_BITS = 14_000
_ZONED = re.compile(r"([^\[]+)\[([^\]]+)\]")
_DURATION = re.compile(r"(-?)PT(\d+)(?:\.(\d{6}))?S")


def take_text(value: Any) -> str:
    """Text as plain `str`."""
    if not isinstance(value, str):
        raise wrong(value, "str")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("text with half a surrogate pair has no UTF-8; pass bytes") from error
    return str.__str__(value)


def take_int(value: Any) -> int:
    """An integer that is no bool."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong(value, "int")
    if value.bit_length() > _MAX_INT_BITS:
        raise ValueError("an integer of more than 4,000 digits; pass it as bytes")
    return int(value)


def take_float(value: Any) -> float:
    """A finite float, or an integer that is exactly one."""
    if not isinstance(value, (float, int)) or isinstance(value, bool):
        raise wrong(value, "float")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is no number in JSON; pass a Decimal, or None for a missing value")
    if number != value:
        raise ValueError(f"{value} is no float without loss; annotate the parameter with int")
    return number


def take_bool(value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise wrong(value, "bool")
    return value


def take_none(value: Any) -> None:
    """None."""
    if value is not None:
        raise wrong(value, "None")


def _from_text(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    return lambda json: parse(take_text(json))


def _to_text(kind: type, form: Callable[[Any], str]) -> Callable[[Any], str]:
    def encode(value: Any) -> str:
        if not isinstance(value, kind):
            raise wrong(value, kind.__name__)
        return form(value)

    return encode


def _encode_datetime(value: Any) -> str:
    if not isinstance(value, dt.datetime):
        raise wrong(value, "datetime")
    return _with_zone(value)


def _encode_time(value: Any) -> str:
    if not isinstance(value, dt.time):
        raise wrong(value, "time")
    return _with_zone(value)


def _with_zone(value: dt.datetime | dt.time) -> str:
    zone, text = value.tzinfo, value.isoformat()
    if zone is None:
        return text
    if isinstance(zone, ZoneInfo) and zone.key:
        return f"{text}[{zone.key}]"
    if value.utcoffset() is None:
        raise ValueError(f"the offset of {zone!r} is not known here; use datetime.timezone or zoneinfo.ZoneInfo")
    return text


def _decode_datetime(text: str) -> dt.datetime:
    zoned = _ZONED.fullmatch(text)
    if zoned is None:
        return dt.datetime.fromisoformat(text)
    moment, zone = dt.datetime.fromisoformat(zoned[1]), ZoneInfo(zoned[2])
    for fold in (0, 1):
        local = moment.replace(tzinfo=zone, fold=fold)
        if local.utcoffset() == moment.utcoffset():
            return local
    return moment.astimezone(zone)  # the zone's rules differ here: the moment counts


def _decode_time(text: str) -> dt.time:
    zoned = _ZONED.fullmatch(text)
    if zoned is None:
        return dt.time.fromisoformat(text)
    return dt.time.fromisoformat(zoned[1]).replace(tzinfo=ZoneInfo(zoned[2]))


def _encode_date(value: Any) -> str:
    if not isinstance(value, dt.date) or isinstance(value, dt.datetime):
        raise wrong(value, "date")
    return value.isoformat()


def _encode_duration(value: dt.timedelta) -> str:
    microseconds = value // dt.timedelta(microseconds=1)
    seconds, rest = divmod(abs(microseconds), 1_000_000)
    return f"{'-' if microseconds < 0 else ''}PT{seconds}{f'.{rest:06}' if rest else ''}S"


def _decode_duration(text: str) -> dt.timedelta:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no duration")
    length = dt.timedelta(seconds=int(match[2]), microseconds=int(match[3] or 0))
    return -length if match[1] else length


def _decode_bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


_TEXT = frozenset({JsonKind.TEXT})

SCALARS: dict[Any, Coder] = {
    str: Coder(take_text, take_text, (str,), _TEXT),
    int: Coder(take_int, take_int, (int,), frozenset({JsonKind.INT})),
    bool: Coder(take_bool, take_bool, (bool,), frozenset({JsonKind.BOOL})),
    float: Coder(take_float, take_float, (float,), frozenset({JsonKind.FLOAT})),
    type(None): Coder(take_none, take_none, (type(None),), frozenset({JsonKind.NULL})),
    Decimal: Coder(_to_text(Decimal, str), _from_text(Decimal), (Decimal,), _TEXT),
    uuid.UUID: Coder(_to_text(uuid.UUID, str), _from_text(uuid.UUID), (uuid.UUID,), _TEXT),
    bytes: Coder(_to_text(bytes, lambda v: base64.b64encode(v).decode()), _from_text(_decode_bytes), (bytes,), _TEXT),
    dt.datetime: Coder(_encode_datetime, _from_text(_decode_datetime), (dt.datetime,), _TEXT),
    dt.date: Coder(_encode_date, _from_text(dt.date.fromisoformat), (dt.date,), _TEXT),
    dt.time: Coder(_encode_time, _from_text(_decode_time), (dt.time,), _TEXT),
    dt.timedelta: Coder(_to_text(dt.timedelta, _encode_duration), _from_text(_decode_duration), (dt.timedelta,), _TEXT),
}
"""By annotation."""


def take_plain(value: Any) -> Any:
    """A value whose type JSON shows: what is taken where there is no annotation."""
    kind = type(value)
    if kind is str:
        return take_text(value)
    if kind is int:
        return take_int(value)
    if kind is float:
        return take_float(value)
    if kind is bool or value is None:
        return value
    if kind is list:
        return [take_plain(v) for v in value]
    if kind is dict:
        return {_plain_key(k): take_plain(v) for k, v in value.items()}
    raise TypeError(f"{kind.__name__}, whose type JSON does not show; annotate the parameter with it")


def _plain_key(key: Any) -> str:
    if type(key) is not str:
        raise TypeError(f"a dict with {type(key).__name__} keys, whose type JSON does not show; annotate the parameter")
    return take_text(key)


PLAIN = Coder(take_plain, lambda json: json, (object,), frozenset(JsonKind))
