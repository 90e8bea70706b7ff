"""Which settings of a database can lose acknowledged commits: those that cannot be set on a running test server."""

from __future__ import annotations

from pathlib import Path

import pytest
from txcoord_server.store import mysql, postgresql
from txcoord_server.store.filesystem import NETWORK, kind_of, network_filesystem

POSTGRESQL = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "synchronous_standby_names": ""}
MYSQL = {"innodb_flush_log_at_trx_commit": "1", "innodb_doublewrite": "ON", "log_bin": "OFF", "sync_binlog": "0"}
MOUNTS = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
28 27 0:40 / /mnt/share rw,relatime shared:12 master:3 - nfs4 files:/export rw,vers=4.2
29 28 0:41 / /mnt/share/local rw - ext4 /dev/vdb rw
30 27 0:42 / /mnt/with\040space rw - cifs //files/x rw
31 27 0:43 / /mnt/hidden rw - nfs files:/x rw
32 27 0:44 / /mnt/hidden rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, None),
        ({"fsync": "off"}, "fsync"),
        ({"full_page_writes": "off"}, "full_page_writes"),
        ({"synchronous_commit": "off"}, "synchronous_commit"),
        ({"synchronous_commit": "local"}, None),
        ({"synchronous_commit": "local", "synchronous_standby_names": "b"}, "synchronous_commit"),
        ({"synchronous_commit": "remote_apply", "synchronous_standby_names": "b"}, None),
    ],
)
def test_postgresql(changes: dict[str, str], named: str | None) -> None:
    found = postgresql.risks_of(POSTGRESQL | changes)
    assert [text.split()[3] for text in found] == ([named] if named else [])
    assert all(text.endswith("set it to on") for text in found)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, None),
        ({"innodb_flush_log_at_trx_commit": "2"}, "innodb_flush_log_at_trx_commit"),
        ({"innodb_flush_log_at_trx_commit": "0"}, "innodb_flush_log_at_trx_commit"),
        ({"innodb_flush_log_at_trx_commit": "3"}, None),
        ({"innodb_doublewrite": "OFF"}, "innodb_doublewrite"),
        ({"innodb_doublewrite": "DETECT_ONLY"}, "innodb_doublewrite"),
        ({"log_bin": "ON"}, "sync_binlog"),
        ({"log_bin": "ON", "sync_binlog": "1"}, None),
        ({"log_bin": "ON", "sync_binlog": "100"}, "sync_binlog"),
    ],
)
def test_mariadb_and_mysql(changes: dict[str, str], named: str | None) -> None:
    assert [text.split()[4] for text in mysql.risks_of(MYSQL | changes)] == ([named] if named else [])


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/txcoord.db", "ext4"),
        ("/mnt/share/txcoord.db", "nfs4"),
        ("/mnt/shared/txcoord.db", "ext4"),
        ("/mnt/share/local/txcoord.db", "ext4"),
        ("/mnt/with space/txcoord.db", "cifs"),
        ("/mnt/hidden/txcoord.db", "tmpfs"),
    ],
)
def test_the_filesystem_of_a_file(path: str, kind: str) -> None:
    assert kind_of(path, MOUNTS) == kind
    assert (kind in NETWORK) == (kind in ("nfs4", "cifs"))


def test_this_machine(tmp_path: Path) -> None:
    assert network_filesystem(str(tmp_path)) is None
    assert kind_of("/proc/self/mountinfo", Path("/proc/self/mountinfo").read_text()) == "proc"
