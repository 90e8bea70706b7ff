"""A captured statement on MariaDB does what the plain one does, and leaves an undo record of exactly the rows that it changed."""

from __future__ import annotations

import pytest
from txcoord_proto.errors import UnsupportedSqlError

from tests.contract.rm.maria import Maria


@pytest.fixture(autouse=True)
def acct(maria: Maria) -> None:
    maria.plain(
        "CREATE TABLE acct (id int PRIMARY KEY, bal decimal(10,2) NOT NULL, email varchar(20) UNIQUE, note text)",
        "INSERT INTO acct VALUES (1, 100, 'a@x', 'one'), (2, 200, 'b@x', NULL), (3, 300, NULL, 'three')",
    )


def key(maria: Maria, rest: str) -> str:
    return f"{maria.database}.acct{rest}"


def test_an_update_by_key(maria: Maria) -> None:
    ran = maria.run("UPDATE acct SET bal = bal - %(x)s WHERE id = %(id)s", {"x": 5, "id": 1})
    assert (ran.rowcount, ran.keys, ran.description) == (1, {key(maria, "(id)=(1)")}, None)
    assert maria.images() == [("acct", ["id", "bal"], [("1", "100.00")], [("1", "95.00")])]
    assert [str(r[1]) for r in maria.rows("acct")] == ["95.00", "200.00", "300.00"]


def test_positional_parameters_keep_their_order(maria: Maria) -> None:
    ran = maria.run(
        "UPDATE acct AS a SET a.note = %s WHERE a.id IN (%s, %s) AND a.bal < %s ORDER BY id LIMIT %s", ("n", 1, 2, 150, 5)
    )
    assert ran.rowcount == 1
    assert maria.images() == [("acct", ["id", "note"], [("1", "one")], [("1", "n")])]


def test_what_changes_nothing_leaves_nothing(maria: Maria) -> None:
    assert maria.run("UPDATE acct SET bal = 0 WHERE id = 99").rowcount == 0
    assert maria.images() == []
    ran = maria.run("UPDATE acct SET bal = bal, note = note")
    assert (ran.rowcount, len(ran.keys)) == (3, 3), "rows count as found, as they do without capture"
    assert maria.images() == []
    with pytest.raises(Exception, match="nothing"):
        maria.run("UPDATE acct SET nothing = 0 WHERE id = 99")


def test_insert(maria: Maria) -> None:
    ran = maria.run("INSERT INTO acct (id, bal, email) VALUES (%s, %s, %s), (5, 1, NULL)", (4, 7, "C@x"))
    assert (ran.rowcount, ran.lastrowid, ran.description) == (2, 0, None)
    assert maria.images()[0][2:] == ([None, None], [("4", "7.00", "C@x", None), ("5", "1.00", None, None)])
    assert key(maria, "(id)=(4)") in ran.keys
    assert len(ran.keys) == 3
