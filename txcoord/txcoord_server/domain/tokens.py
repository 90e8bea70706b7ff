"""A token as the store keeps it: never the token itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Token:
    """What a token allows.

    Args:
        hash: SHA-256 of the token, hexadecimal.
        name: What people call it; goes into the audit.
        service: Name of the service that it stands for.
        resources: Shell patterns of the resources that the service may register for and settle.
        role: `service` or `operator`.
        created_at: When it was made, milliseconds since 1970.
    """

    hash: str
    name: str
    service: str
    resources: tuple[str, ...]
    role: str
    created_at: int
