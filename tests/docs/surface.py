"""What the code offers by name: commands with their options, environment variables, public names, tests, files."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import click
from txcoord_rm.cli import main as agent_commands
from txcoord_server.cli import main as server_commands

from tests.docs.page import ROOT

PROGRAMS: dict[str, click.Group] = {"txcoord": server_commands, "txcoord-agent": agent_commands}
_SOURCES = ("proto", "txcoord", "sdk", "rm_agent", "examples", "tests", "tools")


def commands(group: click.Group) -> Iterator[tuple[click.Context, click.Command]]:
    """All commands below `group`, each with a context."""
    context = click.Context(group, info_name=group.name)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield click.Context(command, info_name=name, parent=context, **command.context_settings), command
        if isinstance(command, click.Group):
            yield from commands(command)


def complaint_about(words: Sequence[str]) -> str:
    """What is wrong with a command line that a page shows, or with its beginning; empty: nothing.

    Args:
        words: From the program's name on. Values are not looked at; words in capitals stand for any.
    """
    command: click.Command = PROGRAMS[words[0]]
    known = {"--help", "--version"}
    for word in words[1:]:
        if isinstance(command, click.Group) and re.fullmatch(r"[a-z][a-z-]*", word):
            inner = command.get_command(click.Context(command), word)
            if inner is None:
                return f"{command.name} has no command {word!r}"
            command = inner
            known = {"--help", *(option for parameter in inner.params for option in (*parameter.opts, *parameter.secondary_opts))}
        elif word.startswith("-") and word.split("=")[0].rstrip(",") not in known:
            return f"{' '.join(words[:2])} has no option {word!r}"
    return ""


@cache
def variables() -> frozenset[str]:
    """Environment variables that something reads: of options, and named in the sources."""
    found = set()
    for program in PROGRAMS.values():
        for context, command in commands(program):
            for parameter in command.params:
                found |= {parameter.envvar} if isinstance(parameter.envvar, str) else set(parameter.envvar or ())
                if context.auto_envvar_prefix and parameter.name:
                    found.add(f"{context.auto_envvar_prefix}_{parameter.name.upper()}")
    for name in (*tracked("Makefile"), *tracked(".py")):
        if (name.startswith(_SOURCES) and not name.startswith("tests/docs/")) or name == "Makefile":
            found |= set(re.findall(r"\b(?:TXCOORD|SHOP)_[A-Z_]+\b", (ROOT / name).read_text()))
    return frozenset(found)


@cache
def tracked(ending: str = "") -> tuple[str, ...]:
    """Files of the project, from its root on."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    return tuple(name for name in listed if name and name.endswith(ending) and (ROOT / name).exists())


def is_defined(path: Path, name: str) -> bool:
    """Whether a Python file defines the function or class `name` at its top."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return any(isinstance(node, kinds) and node.name == name for node in ast.parse(path.read_text()).body)
