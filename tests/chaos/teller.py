"""The initiator: reads transfers from standard input, one JSON object a line, and prints what it was told of each.

A transfer may name a step at which the process kills itself, as a machine that fails would.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from typing import Any

import requests
from txcoord_proto.errors import RolledBackError
from txcoord_sdk import Client, connect
from txcoord_sdk.carriers.requests import TransactionAdapter


class AbandonedError(Exception):
    """The customer changes his mind."""


def transfer(client: Client, order: dict[str, Any]) -> None:
    """One transfer, in three branches at two banks."""

    def at(step: str) -> None:
        say(order, step=step, xid=transaction.known_xid)
        if order["die"] == step:
            os.kill(os.getpid(), signal.SIGKILL)

    with requests.Session() as http, client.global_transaction(timeout=order["timeout"], name="transfer") as transaction:
        http.mount("http://", TransactionAdapter())
        at("before begin")
        transaction.xid()
        at("begun")
        amount = order["amount"]
        call(http, f"{order['source']}/withdraw?amount={amount}&pause={order['pause']}")
        at("between tries")
        call(http, f"{order['target']}/deposit?amount={amount}")
        call(http, f"{order['target']}/advise?amount={amount}")
        at("before the end")
        if order["abandon"]:
            raise AbandonedError


def call(http: requests.Session, url: str) -> None:
    http.post(url, timeout=10).raise_for_status()


def say(order: dict[str, Any], **what: Any) -> None:
    """One line on standard output, at once."""
    os.write(1, (json.dumps({"id": order["id"], **what}) + "\n").encode())


def serve(client: Client, order: dict[str, Any]) -> None:
    told = "COMMIT"
    try:
        transfer(client, order)
    except (AbandonedError, RolledBackError, requests.RequestException):
        told = "ROLLBACK"
    except Exception as error:
        told = repr(error)
    if order["die"] == "told":
        os.kill(os.getpid(), signal.SIGKILL)
    say(order, told=told)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("coordinator")
    args = parser.parse_args()
    if not sys.stdin.readline():
        return
    client = connect(args.coordinator, service="teller")
    with client:
        client.wait_connected()
        print(json.dumps({"ready": True}), flush=True)
        for line in sys.stdin:
            threading.Thread(target=serve, args=(client, json.loads(line)), daemon=True).start()


if __name__ == "__main__":
    main()
