"""`txcoord health`: what container engines and orchestrators ask again and again."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from txcoord_proto.errors import CoordinatorUnreachableError
from txcoord_proto.terminal import PEM, errors_end_it, show_document
from txcoord_proto.terminal import as_json as json_option

from txcoord_server.commands.channel import Tls, open_channel


@click.command("health", short_help="Is it alive? For container engines.", context_settings={"show_default": True})
@click.argument("address", default="127.0.0.1:8190")
@click.option("--leader", is_flag=True, help="Only the leader counts as well, and only while its store takes commits.")
@click.option("--tls", is_flag=True, help="TLS with the system's authorities.")
@click.option("--tls-ca", type=PEM, help="CA of its certificate, PEM.")
@click.option("--tls-cert", type=PEM, help="Client certificate, PEM.")
@click.option("--tls-key", type=PEM, help="Its private key, PEM.")
@click.option("--tls-server-name", default="", help="Name in its certificate, where that is not the address.")
@click.option("--timeout", default=2.0, help="Seconds.")
@json_option
@errors_end_it
def health_command(
    address: str,
    leader: bool,
    tls: bool,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_server_name: str,
    timeout: float,
    as_json: bool,
) -> None:
    """Ask whether the coordinator at ADDRESS is well; exit code 0 if it is, 1 if not.

    Leader and standby are both well; --leader tells them apart.
    """
    secured = Tls.wanted(tls, tls_ca, tls_cert, tls_key, tls_server_name)
    try:
        with open_channel(address, secured) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout)
    except grpc.RpcError as error:
        raise CoordinatorUnreachableError(f"{address} does not answer: {error.details()}") from error
    leads = answer.status == health_pb2.HealthCheckResponse.SERVING
    if as_json:
        show_document({"address": address, "leads": leads})
    else:
        click.echo(f"{address} {'leads and serves' if leads else 'answers, and does not lead or its store takes no commits'}")
    sys.exit(0 if leads or not leader else 1)
