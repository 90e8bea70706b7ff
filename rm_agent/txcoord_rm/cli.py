"""The command `txcoord-agent`."""

from __future__ import annotations

from txcoord_proto.commands import CommandGroup

main = CommandGroup(
    "txcoord-agent",
    "txcoord_agent.commands",
    "What runs beside a business database.",
    ("init", "check", "serve", "recover", "undo", "capture"),
)
