"""The coordinator that a command talks to, as any service does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from txcoord_proto.terminal import CREDENTIALS
from txcoord_sdk.client import Client
from txcoord_sdk.config import Tls, config_from

ANSWER_SECONDS = 10.0
"""How long a command waits for a coordinator that does not answer."""
_OPTIONS = (
    click.option(
        "--address", default="127.0.0.1:8190", envvar="TXCOORD_ADDRESS", show_default=True, show_envvar=True,
        help="HOST:PORT of coordinators, several separated by commas.",
    ),
    click.option(
        "--service", default="txcoord-agent", envvar="TXCOORD_SERVICE", show_default=True, show_envvar=True,
        help="Name of the service; with a token that of the token.",
    ),
    *CREDENTIALS,
)  # fmt: skip


def with_client(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a client, not yet started, from options and environment, as its first argument `client`."""

    @functools.wraps(command)
    def run(
        *, address: str, service: str, token: str, tls: bool, tls_ca: Path | None, tls_cert: Path | None, tls_key: Path | None,
        tls_server_name: str, **kwargs: Any,
    ) -> None:  # fmt: skip
        if (tls_cert is None) != (tls_key is None):
            raise click.UsageError("--tls-cert and --tls-key belong together")
        named = Tls(tls_ca, tls_cert, tls_key, tls_server_name)
        wanted = named if tls or named != Tls() else None
        config = config_from(address, service, token, wanted, failover_wait=ANSWER_SECONDS, environment={})
        command(client=Client(config), **kwargs)

    for option in reversed(_OPTIONS):
        run = option(run)
    return run
