"""`txcoord-agent init`."""

from __future__ import annotations

import click
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError
from txcoord_proto.errors import ConfigurationError
from txcoord_proto.terminal import as_json, errors_end_it, show_document

from txcoord_rm.commands.database import opened, url_argument
from txcoord_rm.schema import ddl


@click.command("init", short_help="Create txcoord's tables.")
@url_argument
@click.option("--sql", is_flag=True, help="Print the statements instead; the database is not opened.")
@as_json
@errors_end_it
def init_command(url: str, sql: bool, as_json: bool) -> None:
    """Create txcoord's tables in the business database at URL (a synchronous SQLAlchemy URL), where they are missing."""
    if sql:
        _print(url, as_json)
        return
    with opened(url) as database:
        identity = database.prepare()
    if as_json:
        show_document({"database": identity})
    else:
        click.echo(f"database {identity} is ready")


def _print(url: str, as_json: bool) -> None:
    try:
        dialect = make_url(url).get_dialect()()
    except (ArgumentError, ImportError) as error:
        raise ConfigurationError(f"the database's URL cannot be used: {error}") from error
    statements = list(ddl(dialect))
    if as_json:
        show_document({"statements": statements})
    else:
        click.echo("\n\n".join(f"{statement};" for statement in statements))
