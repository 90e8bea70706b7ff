"""A person at the command line: `txcoord-agent undo`, after a line on standard input as every process of this suite."""

from __future__ import annotations

import sys

from txcoord_proto.failpoints import announce
from txcoord_rm.commands.undo import undo_command

if __name__ == "__main__":
    announce()
    command, xid, url, address = sys.argv[1:]
    undo_command([command, xid, "--database", url, "--address", address, "--reason", "a clerk has written over it", "--yes"])
