"""What a person's commands do to the store: make it ready, add a token, drop one, forget a group."""

from __future__ import annotations

import asyncio
import sys

from txcoord_proto.failpoints import announce
from txcoord_server.domain.tokens import Token
from txcoord_server.store.open import open_store
from txcoord_server.store.sql_store import SqlStore


def opened(url: str) -> SqlStore:
    """The store, not yet started."""
    return open_store(url)


async def work(url: str, what: str, name: str) -> None:
    store = opened(url)
    await store.start()
    if what == "add":
        await store.add_token(Token(f"hash of {name}", name, name, ("*",), "service", 1))
    if what == "drop":
        await store.drop_token(name)
    if what == "forget":
        await store.forget()
    await store.stop()


if __name__ == "__main__":
    announce()
    asyncio.run(work(*sys.argv[1:]))
