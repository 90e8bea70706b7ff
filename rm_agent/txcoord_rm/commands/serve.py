"""`txcoord-agent serve`: phase two of AT and XA for a database beside services that may be down."""

from __future__ import annotations

import json
import logging
import signal
import threading

import click
from txcoord_proto.terminal import as_json, errors_end_it
from txcoord_sdk.client import Client

from txcoord_rm.commands.coordinator import with_client
from txcoord_rm.commands.database import open_database, url_argument
from txcoord_rm.xa.participant import serve_database

_STEP_SECONDS = 0.5


@click.command("serve", short_help="Do phase two of AT and XA for a database.")
@url_argument
@as_json
@with_client
@errors_end_it
def serve_command(client: Client, url: str, as_json: bool) -> None:
    """Do phase two of AT and XA in the database at URL, beside the services that use it: also while those are down.

    Rows are put back, and prepared transactions are ended as decided; it looks for such as were left behind when it starts and
    every 10 seconds. Prints one line when it is ready. Our tables are created where they are missing. SIGTERM ends it.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stopped, served = threading.Event(), threading.Event()
    resources: list[str] = []

    def ready(resource: str) -> None:
        resources.append(resource)
        served.set()

    database = open_database(url)
    try:
        with client:
            serve_database(client, database, ready)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stopped.set())
            while not stopped.is_set() and not (served.wait(_STEP_SECONDS) and client.wait_connected(_STEP_SECONDS)):
                pass
            if not stopped.is_set():
                _say(client, resources[0], as_json)
            stopped.wait()
    finally:
        database.close()
        database.sync_engine.dispose()


def _say(client: Client, resource: str, as_json: bool) -> None:
    address = ",".join(client.config.addresses)
    line = {"resource": resource, "service": client.service, "coordinator": address}
    click.echo(json.dumps(line) if as_json else f"ready: {resource} is served for {address}")
