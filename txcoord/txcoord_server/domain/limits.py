"""Bounds on what a request may contain and on how much may be open, checked before anything changes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from txcoord_proto.errors import InvalidArgumentError

MAX_NAME = 128
MAX_KEY = 128
MAX_RESOURCE = 200
MAX_LOCK_KEY = 512
MAX_TRACEPARENT = 64
MAX_ERROR = 500
MAX_CODE = 64
MAX_REASON = 500
MAX_TOKEN_NAME = 64
MAX_INSTANCE = 128
MAX_SERVICE = 128
MAX_BRANCH_ID = (1 << 63) - 1

_RESOURCE = re.compile(r"[A-Za-z0-9_.:@/-]+")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be open and how long things may take.

    Attributes:
        transactions: Unfinished transactions in all.
        transactions_per_service: Unfinished transactions of one service.
        branches: Branches of one transaction.
        locks: Lock keys of one registration.
        arguments: Bytes of a branch's arguments.
        memory: Bytes of arguments and lock keys of all unfinished transactions.
        timeout: Longest timeout of a transaction, milliseconds.
        default_timeout: Timeout where none is given, milliseconds.
        phase_one_wait: How long an asked-for commit waits for reports, milliseconds.
        commit_wait: How long the answer to a commit is held back for settlement, milliseconds.
        rollback_wait: The same for a rollback.
        lock_wait: Longest wait for a global lock, milliseconds.
    """

    transactions: int = 400_000
    transactions_per_service: int = 200_000
    branches: int = 1_000
    locks: int = 10_000
    arguments: int = 1 << 20
    memory: int = 512 << 20
    timeout: int = 24 * 3600 * 1000
    default_timeout: int = 60_000
    phase_one_wait: int = 5_000
    commit_wait: int = 5_000
    rollback_wait: int = 10_000
    lock_wait: int = 60_000


def check_text(what: str, text: str, longest: int) -> None:
    """Refuse text that is too long or holds a NUL.

    Raises:
        InvalidArgumentError: With the name `what` in its text.
    """
    if len(text) > longest:
        raise InvalidArgumentError(f"{what} has {len(text)} characters, at most {longest} are allowed", {"field": what})
    if "\0" in text:
        raise InvalidArgumentError(f"{what} holds a NUL character, which not every database stores", {"field": what})


def clean_text(text: str, longest: int) -> str:
    """What a program says in its own words, as every database stores it: cut, and without NUL."""
    return text[:longest].replace("\0", "\ufffd")


@lru_cache(maxsize=4096)
def _is_resource(name: str) -> bool:
    return _RESOURCE.fullmatch(name) is not None


def check_resource(resource: str) -> None:
    """Refuse a resource name that is not `service:action@database-id` or `db@database-id` in shape."""
    if len(resource) > MAX_RESOURCE or not _is_resource(resource):
        raise InvalidArgumentError(
            f"resource {resource[:80]!r}: 1 to {MAX_RESOURCE} letters, digits and _.:@/- are allowed",
            {"field": "resource"},
        )
