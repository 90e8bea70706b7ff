"""`txcoord token`: made, listed and dropped in the store itself, since the first one cannot be made with one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click
from txcoord_proto.errors import ConfigurationError
from txcoord_proto.terminal import as_json, errors_end_it, moment, show_document, table

from txcoord_server.domain.limits import MAX_SERVICE, MAX_TOKEN_NAME, check_text
from txcoord_server.domain.tokens import Token
from txcoord_server.rpc.auth import new_token, token_hash
from txcoord_server.store.open import open_store
from txcoord_server.store.sql_store import SqlStore

T = TypeVar("T")

_WITHOUT = (
    "a coordinator on loopback, or with --insecure, lets everybody in under the name that he gives, as an operator too; "
    "any other lets nobody in"
)

_store = click.option(
    "--store", default="sqlite:///txcoord.db", envvar="TXCOORD_STORE", show_default=True, show_envvar=True,
    help="SQLAlchemy URL of the coordinator's store.",
)  # fmt: skip


@click.group("token", short_help="Make, list and drop tokens.")
def token_command() -> None:
    """Make, list and drop tokens; coordinators know of it within 5 seconds.

    As soon as there is one token, everybody needs one.
    """


@token_command.command("add")
@click.argument("name")
@click.option("--service", required=True, help="Service that it stands for; only that may commit what it begins.")
@click.option(
    "--resource", "resources", multiple=True,
    help="Shell pattern of resources that it may register for and serve, such as 'stock:*'; may be repeated; none without it.",
)  # fmt: skip
@click.option(
    "--role", type=click.Choice(["service", "operator"]), default="service", show_default=True,
    help="An operator may also retry and force.",
)  # fmt: skip
@_store
@as_json
@errors_end_it
def add_command(name: str, service: str, resources: tuple[str, ...], role: str, store: str, as_json: bool) -> None:
    """Make a token and print it, once: the store keeps only its hash.

    Several tokens of one service are valid at once, so that one can be replaced by another: add, hand out, drop the old one.
    """
    check_text("name", name, MAX_TOKEN_NAME)
    check_text("service", service, MAX_SERVICE)
    token = new_token()
    kept = Token(token_hash(token), name, service, resources, role, int(time.time() * 1000))

    async def add(opened: SqlStore) -> None:
        if any(known.name == name for known in await opened.tokens()):
            raise ConfigurationError(f"there is a token {name!r} already: choose another name, since the audit tells them apart")
        await opened.add_token(kept)

    _with_store(store, add)
    if as_json:
        show_document({"name": name, "service": service, "resources": list(resources), "role": role, "token": token})
        return
    click.echo(token)
    click.echo(f"Give it to {service} as TXCOORD_TOKEN; it is not shown again.", err=True)


@token_command.command("ls")
@_store
@as_json
@errors_end_it
def ls_command(store: str, as_json: bool) -> None:
    """List tokens, without the tokens themselves."""
    tokens = sorted(_with_store(store, SqlStore.tokens), key=lambda t: (t.service, t.name))
    if as_json:
        fields = ("name", "service", "resources", "role", "created_at")
        show_document({"tokens": [{field: getattr(t, field) for field in fields} for t in tokens]})
    elif not tokens:
        click.echo(f"none: {_WITHOUT}")
    else:
        rows = [(t.name, t.service, t.role, ", ".join(t.resources) or "-", moment(t.created_at)) for t in tokens]
        table(("NAME", "SERVICE", "ROLE", "RESOURCES", "MADE"), rows)


@token_command.command("drop")
@click.argument("name")
@_store
@as_json
@errors_end_it
def drop_command(name: str, store: str, as_json: bool) -> None:
    """Drop a token: within 5 seconds who comes with it is refused, and the sessions that were opened with it are ended."""

    async def drop(opened: SqlStore) -> tuple[int, bool]:
        dropped = await opened.drop_token(name)
        if not dropped:
            raise ConfigurationError(f"there is no token {name!r} in {opened.url}: `txcoord token ls` lists them")
        return dropped, bool(await opened.tokens())

    dropped, others = _with_store(store, drop)
    if not others:
        click.echo(f"Warning: that was the last token. Within 5 seconds {_WITHOUT}.", err=True)
    if as_json:
        show_document({"dropped": dropped})
    else:
        click.echo(f"dropped {name}")


def _with_store(url: str, work: Callable[[SqlStore], Awaitable[T]]) -> T:
    async def run() -> T:
        store = open_store(url)
        try:
            await store.open()
            return await work(store)
        finally:
            await store.stop()

    return asyncio.run(run())
