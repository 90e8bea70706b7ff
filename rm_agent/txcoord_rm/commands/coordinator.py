"""The coordinator that a command talks to, as any service does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from txcoord_sdk.client import Client
from txcoord_sdk.config import Tls, config_from

ANSWER_SECONDS = 10.0
"""How long a command waits for a coordinator that does not answer."""
_PEM = click.Path(exists=True, dir_okay=False, path_type=Path)
_OPTIONS = (
    click.option(
        "--address", default="127.0.0.1:8190", envvar="TXCOORD_ADDRESS", show_default=True, show_envvar=True,
        help="HOST:PORT of coordinators, several separated by commas.",
    ),
    click.option(
        "--service", default="txcoord-agent", envvar="TXCOORD_SERVICE", show_default=True, show_envvar=True,
        help="Name of the service; with a token that of the token.",
    ),
    click.option("--token", default="", envvar="TXCOORD_TOKEN", show_envvar=True, help="Token; better given by the variable."),
    click.option("--tls", is_flag=True, envvar="TXCOORD_TLS", show_envvar=True, help="TLS with the system's authorities."),
    click.option("--tls-ca", type=_PEM, envvar="TXCOORD_TLS_CA", show_envvar=True, help="CA of the coordinator, PEM."),
    click.option("--tls-cert", type=_PEM, envvar="TXCOORD_TLS_CERT", show_envvar=True, help="Client certificate, PEM."),
    click.option("--tls-key", type=_PEM, envvar="TXCOORD_TLS_KEY", show_envvar=True, help="Its private key, PEM."),
    click.option(
        "--tls-server-name", default="", envvar="TXCOORD_TLS_SERVER_NAME", show_envvar=True,
        help="Name in the coordinator's certificate, where it is not the address.",
    ),
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
