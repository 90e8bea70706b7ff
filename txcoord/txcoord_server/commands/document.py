"""The JSON form of messages: fields named as on the wire, which only ever adds some."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message


def document(message: Message) -> dict[str, Any]:
    """A message as plain values: every field is there, statuses by name, times in milliseconds since 1970 (0: not yet)."""
    return {field.name: _value(field, getattr(message, field.name)) for field in message.DESCRIPTOR.fields}


def _value(field: Any, value: Any) -> Any:
    if isinstance(value, Message):
        return document(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, str | int | float):
        return field.enum_type.values_by_number[value].name if field.enum_type is not None else value
    return [_value(field, item) for item in value]
