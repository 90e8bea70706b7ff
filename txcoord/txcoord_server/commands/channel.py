"""A command's channel to a coordinator, in the clear or with TLS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import grpc


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS towards the coordinator; see the options of the same names.

    Raises:
        click.UsageError: A certificate without its key, or the other way round.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""

    @classmethod
    def wanted(cls, tls: bool, *options: Any) -> Tls | None:
        """What the options of a command ask for, `--tls` and those of this class in their order; None: in the clear."""
        named = cls(*options)
        return named if tls or named != cls() else None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise click.UsageError("--tls-cert and --tls-key belong together")


def open_channel(address: str, tls: Tls | None, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
    """A channel.

    Args:
        address: `host:port`.
        tls: TLS; None: in the clear.
        options: Of gRPC.
    """
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    credentials = grpc.ssl_channel_credentials(*(f.read_bytes() if f else None for f in (tls.ca, tls.key, tls.certificate)))
    name = [("grpc.ssl_target_name_override", tls.server_name)] if tls.server_name else []
    return grpc.secure_channel(address, credentials, options=[*options, *name])
