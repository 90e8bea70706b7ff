"""Renders the reference pages that say what the code says: states, errors, commands. usage: render_docs.py [--check]."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path

import click
import txcoord_sdk.tcc.decorator  # noqa: F401 - it defines further error codes
from txcoord_proto import status
from txcoord_proto.errors import known_codes
from txcoord_rm.cli import main as agent_commands
from txcoord_server.cli import main as server_commands
from txcoord_server.domain.transitions import BRANCH_TRANSITIONS, GLOBAL_TRANSITIONS

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"


def _members(kind: type[StrEnum]) -> list[str]:
    """Lines for the members of an enum with the docstrings that stand under them."""
    source = Path(status.__file__).read_text().split(f"class {kind.__name__}(", 1)[1]
    return [f"- `{m.name}`: {source.split(f'{m.name} = ', 1)[1].split(chr(34) * 3)[1]}" for m in kind]


def states() -> str:
    """The page of states."""
    lines = ["# States", "", "Rendered from the transition tables (`domain/transitions.py`); `make docs` renews it.", ""]
    for title, kind, table in (
        ("Global transactions", status.GlobalStatus, GLOBAL_TRANSITIONS),
        ("Branches", status.BranchStatus, BRANCH_TRANSITIONS),
    ):
        lines += [f"## {title}", "", *_members(kind), "", "| in | event | leads to |", "|---|---|---|"]
        lines += [f"| {state} | {event} | {to} |" for state, row in table.items() for event, to in row.items()]
        lines.append("")
    return "\n".join([*lines, "## Reasons of a decision", "", *_members(status.Reason), ""])


def errors() -> str:
    """The page of errors."""
    lines = ["# Errors", "", "Every error has a stable code and says in its text what to do next.", ""]
    lines += ["| code | class | retryable | meaning |", "|---|---|---|---|"]
    for code, kind in sorted(known_codes().items()):
        meaning = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
        lines.append(f"| {code} | `{kind.__name__}` | {'yes' if kind.retryable else 'no'} | {meaning} |")
    return "\n".join([*lines, ""])


def commands() -> str:
    """The page of commands."""
    lines = ["# Commands", ""]
    for group in (server_commands, agent_commands):
        context = click.Context(group, info_name=group.name)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            inner = click.Context(command, info_name=f"{group.name} {name}", auto_envvar_prefix="TXCOORD", terminal_width=100)
            lines += [f"## {group.name} {name}", "", "```", command.get_help(inner), "```", ""]
    return "\n".join(lines)


PAGES = {"states.md": states, "errors.md": errors, "commands.md": commands}


def main() -> None:
    """Render the pages, or say which are stale."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    stale = [name for name, page in PAGES.items() if not (REFERENCE / name).exists() or (REFERENCE / name).read_text() != page()]
    if "--check" in sys.argv:
        if stale:
            sys.exit(f"stale pages, run `make docs`: {', '.join(stale)}")
        return
    for name in stale:
        (REFERENCE / name).write_text(PAGES[name]())


if __name__ == "__main__":
    main()
