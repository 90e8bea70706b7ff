"""Renders the reference pages that say what the code says: states, errors, commands, options. usage: render_docs.py [--check]."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import click
import txcoord_rm.at.parking  # noqa: F401 - it defines further error codes
import txcoord_sdk.tcc.decorator  # noqa: F401 - likewise
from txcoord_proto import status
from txcoord_proto.errors import known_codes
from txcoord_rm.cli import main as agent_commands
from txcoord_sdk import database
from txcoord_sdk.client import connect
from txcoord_sdk.config import ClientConfig, Tls, config_from
from txcoord_sdk.transaction import options
from txcoord_server.cli import main as server_commands
from txcoord_server.domain.limits import Limits
from txcoord_server.domain.retry import Schedule
from txcoord_server.domain.transitions import BRANCH_TRANSITIONS, GLOBAL_TRANSITIONS
from txcoord_server.engine.retention import RetentionConfig
from txcoord_server.metrics import METRICS, NAMED_RESOURCES, OTHERS
from txcoord_server.serve import serve_command

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
RENDERED = "<!-- `make docs` renders what follows -->"


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """Lines of a table, and an empty one."""
    head = list(head)
    lines = [f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines, ""]


def _members(module: Any, kind: type) -> dict[str, str]:
    """Members of a class with the docstrings that stand under them."""
    source = Path(module.__file__).read_text().split(f"class {kind.__name__}(", 1)[1].split("\n\n\n", 1)[0]
    return dict(re.findall(r'^    (\w+)(?: =|:) [^\n]+\n    """(.*?)"""', source, re.DOTALL | re.MULTILINE))


def described(documented: Any) -> dict[str, str]:
    """Arguments or attributes with what a docstring in Google's form says of them."""
    text = inspect.getdoc(documented) or ""
    section = re.split(r"^(?:Args|Attributes):\n", text, maxsplit=1, flags=re.MULTILINE)[1]
    section = re.split(r"^\S", section, maxsplit=1, flags=re.MULTILINE)[0]
    found: dict[str, str] = {}
    for entry in re.split(r"^    (?=\w)", section, flags=re.MULTILINE)[1:]:
        names, _, meaning = entry.partition(":")
        found |= {name.strip(): " ".join(meaning.split()) for name in names.split(",")}
    return found


def states() -> str:
    """The page of states."""
    lines = ["# States", "", "Rendered from the transition tables (`domain/transitions.py`); `make docs` renews it.", ""]
    for title, kind, transitions in (
        ("Global transactions", status.GlobalStatus, GLOBAL_TRANSITIONS),
        ("Branches", status.BranchStatus, BRANCH_TRANSITIONS),
    ):
        rows = [(state, event, to) for state, row in transitions.items() for event, to in row.items()]
        lines += [f"## {title}", "", *_listed(kind), "", *table(("in", "event", "leads to"), rows)]
    return "\n".join([*lines, "## Reasons of a decision", "", *_listed(status.Reason), ""])


def _listed(kind: type[StrEnum]) -> list[str]:
    return [f"- `{name}`: {meaning}" for name, meaning in _members(status, kind).items()]


def errors() -> str:
    """The page of errors."""
    lines = ["# Errors", "", "Every error has a stable code and says in its text what to do next.", ""]
    rows = []
    for code, kind in sorted(known_codes().items()):
        if kind.__module__.startswith("txcoord_server."):
            continue  # it stays inside
        meaning = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
        rows.append((code, f"`{kind.__name__}`", "yes" if kind.retryable else "no", meaning))
    return "\n".join([*lines, *table(("code", "class", "retryable", "meaning"), rows)])


def commands() -> str:
    """The page of commands."""
    lines = ["# Commands", ""]
    for group in (server_commands, agent_commands):
        context = click.Context(group, info_name=group.name)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            lines += _command(f"{group.name} {name}", command)
    return "\n".join(lines)


def _command(path: str, command: click.Command) -> Iterator[str]:
    """Lines of a command, and of those below it."""
    context = click.Context(command, info_name=path, terminal_width=100, **command.context_settings)
    yield from (f"## {path}", "", "```", command.get_help(context), "```", "")
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _command(f"{path} {name}", inner)


def metrics() -> str:
    """The page of metrics."""
    introduction = [
        "# Metrics",
        "",
        "What `txcoord serve --metrics HOST:PORT` shows to Prometheus. Every node shows it, a standby too: what only a leader",
        "has is 0 there, or absent. Counters count what this process did since its start.",
        "[Monitor a coordinator](../how-to/monitor.md) says which to watch.",
        "",
    ]
    rows = [(f"`{m.full_name}`", m.kind, ", ".join(f"`{label}`" for label in m.labels), m.text) for m in METRICS]
    after = [
        f"At most {NAMED_RESOURCES} resources are named, the busiest; the others are summed up as `{OTHERS}`. Beside these there",
        "are `process_*`: memory, CPU seconds, open files and start time of the coordinator's process.",
        "",
    ]
    return "\n".join([*introduction, *table(("metric", "type", "labels", "meaning"), rows), *after])


# ---------------------------------------------------------------- options


def configuration() -> str:
    """The page of options, after its introduction, which is written by hand."""
    path = REFERENCE / "configuration.md"
    introduction = path.read_text().split(RENDERED)[0] if path.exists() else "# Configuration\n\n"
    lines = ["## The coordinator: `txcoord serve`", ""]
    lines += table(("option", "environment", "type", "default", "effect"), _server_options())
    lines += ["## A client: `connect(...)`", ""]
    lines += table(("argument", "environment", "type", "default", "effect"), _client_options())
    lines += ["`Tls(...)`:", ""]
    lines += table(("argument", "environment", "type", "default", "effect"), _tls_options())
    lines += ["## A transaction: `global_transaction(...)`", ""]
    lines += table(("argument", "type", "default", "effect"), _scope_options())
    lines += ["`Propagation`:", "", *table(("value", "meaning"), _members(options, options.Propagation).items())]
    lines += ["`Hooks(...)`:", "", *table(("argument", "called"), described(options.Hooks).items())]
    lines += ["## What has no option", ""]
    return introduction + RENDERED + "\n\n" + "\n".join([*lines, *table(("what", "value", "meaning"), _constants())])


def _server_options() -> Iterator[tuple[str, ...]]:
    prefix = serve_command.context_settings["auto_envvar_prefix"]
    for option in serve_command.params:
        assert isinstance(option, click.Option)
        effect = option.help or ""
        match option.type:
            case click.Choice(choices=choices):
                kind = " or ".join(f"`{choice}`" for choice in choices)
            case click.Path():
                kind = "file"
            case _:
                kind = _with_unit("flag" if option.is_flag else option.type.name.removesuffix(" range"), effect)
        default = option.show_default if isinstance(option.show_default, str) else option.to_info_dict()["default"]
        shown = "off" if option.is_flag else f"`{default}`" if default not in (None, "") else "none"
        yield f"`{option.opts[0]}`", f"`{prefix}_{str(option.name).upper()}`", kind, shown, effect


def _with_unit(kind: str, effect: str) -> str:
    return f"{kind}, seconds" if "econds" in effect else f"{kind}, HOST:PORT" if "HOST:PORT" in effect else kind


def _client_options() -> Iterator[tuple[str, ...]]:
    variables, effects = environment_of_client(), described(ClientConfig)
    fields = {"address": "addresses"}
    defaults = config_from(service="none", environment={})
    for name, parameter in inspect.signature(connect).parameters.items():
        field = fields.get(name, name)
        value = getattr(defaults, field)
        shown = "must be given" if name == "service" else _shown(value[0] if isinstance(value, tuple) else value)
        kind = _with_unit(_plain(parameter.annotation), "seconds" if parameter.annotation == "float" else "")
        yield f"`{name}`", _variable(variables.get(field)), kind, shown, effects[field]


def _tls_options() -> Iterator[tuple[str, ...]]:
    variables, effects = environment_of_client(), described(Tls)
    for field in dataclasses.fields(Tls):
        variable = _variable(variables.get(f"tls.{field.name}"))
        yield f"`{field.name}`", variable, _plain(field.type), _shown(field.default), effects[field.name]


def _scope_options() -> Iterator[tuple[str, ...]]:
    fields = {field.name: field for field in dataclasses.fields(options.Options)}
    effects = {**_members(options, options.ScopeOptions), "propagation": "What happens where there is one already; see below."}
    for name, effect in effects.items():
        default = "no hooks" if name == "hooks" else _shown(fields[name].default)
        yield f"`{name}`", _with_unit(_plain(fields[name].type), effect), default, effect


def _constants() -> Iterator[tuple[object, ...]]:
    for kind in (Limits, RetentionConfig, Schedule):
        effects = described(kind)
        for field in dataclasses.fields(kind):
            if field.name not in ("transactions", "transactions_per_service"):  # they have options
                yield f"`{kind.__name__}.{field.name}`", f"{field.default:,}", effects[field.name]
    days = database.FENCE_RETENTION / 24 / 3600
    yield "fence retention", f"{days:g} days", "Fence rows stay at least so long; a try older than half of it does not commit."
    yield (
        "own pool",
        database.POOL_SIZE,
        "Connections that a client opens to each database for second phases, besides your pool; `bind(connections=...)`.",
    )
    yield "lock wait", f"{database.LOCK_WAIT_SECONDS} s", "How long a second phase waits for a row lock before it is tried again."


def _plain(annotation: object) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return f"`{text.removesuffix(' | None')}`"


def _shown(value: object) -> str:
    return "none" if value in (None, "", ()) else f"`{value}`"


def _variable(name: str | None) -> str:
    return f"`{name}`" if name else ""


class _Watched(dict[str, str]):
    """An environment that knows which variables were looked for."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def __contains__(self, name: object) -> bool:
        self.asked.add(str(name))
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Look for a variable."""
        self.asked.add(name)
        return super().get(name, default)


def environment_of_client() -> dict[str, str]:
    """The environment variable of each field of a client's configuration, `tls.ca` and the like included, found by trying."""
    known = {"TXCOORD_SERVICE": "none", "TXCOORD_TLS": "1"}
    watched = _Watched(known)
    before = _flat(config_from(environment=watched))
    found: dict[str, str] = {}
    for variable in sorted(watched.asked - {"TXCOORD_TLS"}):
        after = _flat(config_from(environment={**known, variable: "probe:1"}))
        found |= {field: variable for field, value in after.items() if value != before[field]}
    return found


def _flat(config: Any) -> dict[str, object]:
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {
        **fields,
        **{f"tls.{field.name}": getattr(config.tls, field.name) for field in dataclasses.fields(config.tls)},
        "tls": 1,
    }


PAGES = {
    "states.md": states,
    "errors.md": errors,
    "commands.md": commands,
    "configuration.md": configuration,
    "metrics.md": metrics,
}


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
