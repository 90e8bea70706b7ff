"""`txcoord serve`."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from dataclasses import replace
from pathlib import Path

import click
from txcoord_proto.errors import TxcoordError
from txcoord_proto.terminal import PEM

from txcoord_server.app import App
from txcoord_server.config import Endpoint, ServerConfig
from txcoord_server.domain.limits import Limits
from txcoord_server.engine.engine import EngineConfig
from txcoord_server.engine.retention import RetentionConfig
from txcoord_server.logs import configure_logging

_LIMITS = Limits()
_KEEP = RetentionConfig()
_LEVELS = ["debug", "info", "warning", "error"]
_SOME = click.IntRange(min=1)


@click.command("serve", context_settings={"auto_envvar_prefix": "TXCOORD", "show_default": True})
@click.option("--store", default="sqlite:///txcoord.db", help="SQLAlchemy URL: SQLite, PostgreSQL, MariaDB or MySQL.")
@click.option("--listen", default="127.0.0.1:8190", help="HOST:PORT for clients; port 0 takes any free one.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Only the port; overrides that of --listen.")
@click.option("--advertise", default="", help="HOST:PORT under which clients reach this node, where it differs.")
@click.option("--group", default="default", help="Name of the group of coordinators.")
@click.option("--node", default=socket.gethostname, show_default="host name", help="Name of this node, for people.")
@click.option("--metrics", default="", help="HOST:PORT of the Prometheus endpoint; none without it.")
@click.option("--lease-ttl", default=3.0, help="Seconds of silence after which a standby takes over.")
@click.option("--tls-cert", type=PEM, help="Certificate chain, PEM.")
@click.option("--tls-key", type=PEM, help="Its private key, PEM.")
@click.option("--tls-client-ca", type=PEM, help="CA of client certificates; makes them mandatory.")
@click.option("--max-transactions", default=_LIMITS.transactions, type=_SOME, help="Unfinished transactions in all.")
@click.option(
    "--max-transactions-per-client",
    default=_LIMITS.transactions_per_service,
    type=_SOME,
    help="Unfinished transactions of a service.",
)
@click.option("--keep-committed", default=_KEEP.keep_committed, help="Newest committed transactions that are kept.")
@click.option(
    "--keep-committed-for",
    default=_KEEP.keep_committed_for / 1000,
    help="Seconds that every committed one is kept; at least twice the clients' failover_wait.",
)
@click.option(
    "--keep-keyed",
    default=_KEEP.keep_keyed,
    help="Newest committed transactions with a business key that are kept for --keep-notable-for.",
)
@click.option(
    "--keep-notable-for",
    default=_KEEP.keep_notable_for / 1000,
    help="Seconds that those rolled back, forced, once parked or with a business key are kept.",
)
@click.option("--insecure", is_flag=True, help="Listen beyond loopback without TLS and tokens.")
@click.option("--unsafe-store", is_flag=True, help="Accept a store whose settings can lose acknowledged commits.")
@click.option("--log-format", type=click.Choice(["human", "json"]), default="human", help="Form of log lines.")
@click.option("--log-level", type=click.Choice(_LEVELS, case_sensitive=False), default="info", help="Lowest level that is shown.")
def serve_command(
    store: str,
    listen: str,
    port: int | None,
    advertise: str,
    group: str,
    node: str,
    metrics: str,
    lease_ttl: float,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    max_transactions: int,
    max_transactions_per_client: int,
    keep_committed: int,
    keep_committed_for: float,
    keep_keyed: int,
    keep_notable_for: float,
    insecure: bool,
    unsafe_store: bool,
    log_format: str,
    log_level: str,
) -> None:
    """Run the coordinator.

    A second one on the same store is a hot standby. SIGTERM drains and ends it.
    """
    configure_logging(log_format, log_level)
    limits = Limits(transactions=max_transactions, transactions_per_service=max_transactions_per_client)
    retention = RetentionConfig(keep_committed, int(keep_committed_for * 1000), keep_keyed, int(keep_notable_for * 1000))
    try:
        endpoint = Endpoint.parse("--listen", listen)
        config = ServerConfig(
            store=store,
            listen=endpoint if port is None else replace(endpoint, port=port),
            advertise=advertise,
            node=node,
            metrics=Endpoint.parse("--metrics", metrics) if metrics else None,
            tls_certificate=tls_cert,
            tls_key=tls_key,
            tls_client_ca=tls_client_ca,
            insecure=insecure,
            unsafe_store=unsafe_store,
            engine=EngineConfig(group=group, limits=limits, retention=retention, lease_ttl=int(lease_ttl * 1000)),
        )
        asyncio.run(App(config).run())
    except TxcoordError as error:
        logging.getLogger(__name__).error("%s", error)
        sys.exit(1)
