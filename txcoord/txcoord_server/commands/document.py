"""The JSON form of what the commands show: one document, fields named as on the wire, which only ever adds some."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click
from google.protobuf.message import Message
from txcoord_proto.errors import TxcoordError


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


def show_document(values: Mapping[str, Any]) -> None:
    """Print a document."""
    click.echo(json.dumps(values, indent=2, ensure_ascii=False))


def show_error(error: TxcoordError, as_json: bool) -> None:
    """Print an error: one line for people, a document for programs."""
    if as_json:
        show_document({"error": {"code": error.code, "message": error.message, "details": error.details}})
    click.echo(f"Error: {' '.join(error.message.split())} [{error.code}]", err=True)
