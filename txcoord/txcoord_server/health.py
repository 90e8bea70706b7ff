"""`txcoord health`: what container engines and orchestrators ask again and again."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


@click.command("health", short_help="Is it alive? For container engines.", context_settings={"show_default": True})
@click.argument("address", default="127.0.0.1:8190")
@click.option("--leader", is_flag=True, help="Only the leader counts as well, and only while its store takes commits.")
@click.option("--tls-ca", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="CA of its certificate, PEM.")
@click.option("--timeout", default=2.0, help="Seconds.")
def health_command(address: str, leader: bool, tls_ca: Path | None, timeout: float) -> None:
    """Ask whether the coordinator at ADDRESS is well; exit code 0 if it is, 1 if not.

    Leader and standby are both well; --leader tells them apart.
    """
    if tls_ca is None:
        channel = grpc.insecure_channel(address)
    else:
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(tls_ca.read_bytes()))
    try:
        with channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout)
    except grpc.RpcError as error:
        click.echo(f"{address} does not answer: {error.details()}", err=True)
        sys.exit(1)
    leads = answer.status == health_pb2.HealthCheckResponse.SERVING
    click.echo(f"{address} {'leads and serves' if leads else 'answers, and does not lead or its store takes no commits'}")
    sys.exit(0 if leads or not leader else 1)
