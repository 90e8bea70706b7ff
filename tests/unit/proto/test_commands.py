"""Subcommands are loaded without the garbage collector, which is on again afterwards, however that ends."""

from __future__ import annotations

import gc
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from txcoord_proto.commands import CommandGroup

MODULE = "import click, gc\nwas_on = gc.isenabled()\n@click.command()\ndef greet(): pass\n"


@pytest.mark.parametrize("on", [True, False])
def test_loading_takes_no_time_for_collection_and_leaves_it_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: bool
) -> None:
    (tmp_path / "greeting.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    group = CommandGroup("greeter", "nothing.registers.here", "Greets.")
    for value in ("greeting:greet", "no_such_module:greet [server]"):
        group._found[value] = EntryPoint(value, value, "nothing.registers.here")
    monkeypatch.delitem(sys.modules, "greeting", raising=False)
    try:
        if not on:
            gc.disable()
        found = [group.get_command(None, name) for name in group.list_commands(None)]  # type: ignore[arg-type]
        assert gc.isenabled() is on
    finally:
        gc.enable()
    assert [command.name for command in found if command] == ["greet", "no_such_module:greet [server]"]
    assert not sys.modules["greeting"].was_on
    monkeypatch.delitem(sys.modules, "greeting")
