"""A participant in a process of its own: pays in a global transaction that its parent began, and serves second phases."""

from __future__ import annotations

import sys

from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from txcoord_rm import enroll
from txcoord_sdk import connect, joined

from tests.integration.xa.book import pay


def main() -> None:
    address, service, url = sys.argv[1:4]
    client = connect(address, service=service)
    engine = create_engine(url)
    enroll(engine, client, mode="xa")
    with client:
        print("ready", flush=True)
        for line in sys.stdin:  # the XID of a transaction to pay in
            try:
                with joined({"txcoord-xid": line.strip()}, client=client), Session(engine) as session:
                    pay(1, 10)(session)
                    session.commit()
            except ConnectionError:  # of a failpoint
                print("failed", flush=True)
            else:
                print("paid", flush=True)


if __name__ == "__main__":
    main()
