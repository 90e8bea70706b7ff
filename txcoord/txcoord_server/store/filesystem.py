"""Which filesystem a file is on, where the system tells (Linux), and whether other machines are behind it."""

from __future__ import annotations

import os
import re
from pathlib import Path

NETWORK = frozenset({
    "9p", "afs", "ceph", "cifs", "fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs",
    "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs",
})  # fmt: skip
"""Filesystems whose locks and shared memory cannot be trusted by SQLite."""

_MOUNTS = Path("/proc/self/mountinfo")


def network_filesystem(path: str) -> str | None:
    """The kind of network filesystem that holds `path`, or None: it is a local one, or the system does not tell."""
    kind = kind_of(os.path.realpath(path), _MOUNTS.read_text()) if _MOUNTS.exists() else ""
    return kind if kind in NETWORK else None


def kind_of(path: str, mounts: str) -> str:
    """The kind of filesystem that holds a path.

    Args:
        path: Absolute, without links.
        mounts: Text of /proc/self/mountinfo (see proc(5)): the fifth field is where, the first after a lone dash is what.

    Returns:
        The kind, empty when no mount holds the path.
    """
    best, kind = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        where = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4])
        holds = path == where or path.startswith(where.rstrip("/") + "/")
        if holds and len(where) >= len(best):  # the last of several mounts on one place hides the others
            best, kind = where, after.split()[0]
    return kind
