"""The frame of both command lines: subcommands come from entry points, so that every package brings its own."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points, version

import click

from txcoord_proto import xid

COMPILED = not str(xid.__file__).endswith(".py")
"""Whether this is the compiled form, which does the same faster."""


class CommandGroup(click.Group):
    """A group whose subcommands are the entry points of one name.

    A subcommand is imported when it is asked for; one whose packages are missing is listed all the same and says, when it is run,
    what to install.

    Args:
        name: Of the program.
        entry_point_group: Where subcommands register.
        help: What the program is for.
        order: Subcommands in the order in which they are shown; further ones follow.
    """

    def __init__(self, name: str, entry_point_group: str, help: str, order: Sequence[str] = ()) -> None:
        super().__init__(name, help=help, invoke_without_command=False, no_args_is_help=True)
        self._order = {command: place for place, command in enumerate(order)}
        self._found = {e.name: e for e in entry_points(group=entry_point_group)}
        self.params.append(
            click.Option(
                ["--version"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=_show_version,
                help="Show the version.",
            )
        )

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All subcommands, installed or not."""
        return sorted(self._found, key=lambda name: (self._order.get(name, len(self._order)), name))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand, or one that says what is missing."""
        found = self._found.get(cmd_name)
        if found is None:
            return None
        try:
            with _without_collection():
                command = found.load()
        except ImportError as error:
            return _missing(found, error)
        assert isinstance(command, click.Command)
        return command


@contextmanager
def _without_collection() -> Iterator[None]:
    """Modules stay once they are loaded: to look for cycles among their objects meanwhile takes a tenth of the time or more."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _show_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"{ctx.info_name} {version('txcoord')}{' (compiled)' if COMPILED else ''}")
        ctx.exit()


def _missing(found: EntryPoint, error: ImportError) -> click.Command:
    extra = found.extras[0] if found.extras else "server"

    def complain() -> None:
        click.echo(f"`{found.name}` needs more packages ({error}): pip install 'txcoord[{extra}]'", err=True)
        sys.exit(2)

    context = {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.Command(
        found.name, callback=complain, short_help=f"Needs: pip install 'txcoord[{extra}]'.", context_settings=context
    )
