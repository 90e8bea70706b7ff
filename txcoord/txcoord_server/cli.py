"""The command `txcoord`."""

from __future__ import annotations

from txcoord_proto.commands import CommandGroup

main = CommandGroup(
    "txcoord",
    "txcoord.commands",
    "The coordinator of global transactions: run it, look into it, act on it.",
    ("serve", "health", "doctor", "ls", "show", "retry", "force-commit", "force-rollback", "locks", "token"),
)
