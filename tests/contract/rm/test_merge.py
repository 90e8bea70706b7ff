"""MERGE from version 18 on: one statement with the images of all that it did; before, it is refused."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine
from txcoord_proto.errors import UnsupportedSqlError
from txcoord_rm.catalogue.facts import facts_on
from txcoord_rm.undo.log import metadata, undo

from tests.contract.rm.branches import phase_one, plain, rows
from tests.contract.rm.captured import run
from tests.contract.rm.conftest import Connection
from tests.servers.fixtures import FreshUrl

MERGE = (
    "MERGE INTO acct AS a USING (VALUES (1, 5), (2, 0), (3, NULL), (4, 7)) AS s (id, n) ON a.id = s.id "
    "WHEN MATCHED AND s.n = 0 THEN DELETE WHEN MATCHED AND s.n IS NULL THEN DO NOTHING "
    "WHEN MATCHED THEN UPDATE SET bal = bal + s.n, email = 'z@x' "
    "WHEN NOT MATCHED THEN INSERT (id, bal, email) VALUES (s.id, s.n, %s)"
)


@pytest.mark.usefixtures("acct")
def test_its_rows_keys_and_images(connection: Connection) -> None:
    if connection.info.server_version < 180_000:
        with pytest.raises(UnsupportedSqlError, match=r"cannot be told apart.*capture install"):
            run(connection, MERGE, ("d@x",))
        return
    ran = run(connection, f"{MERGE} RETURNING merge_action(), old.bal AS was, new.bal, s.*", ("d@x",))
    assert ran.rowcount == 3
    assert ran.names == ["merge_action", "was", "bal", "id", "n"]
    assert sorted(map(str, ran.rows)) == [
        "('DELETE', Decimal('200'), None, 2, 0)",
        "('INSERT', None, Decimal('7'), 4, 7)",
        "('UPDATE', Decimal('100'), Decimal('105'), 1, 5)",
    ]
    assert ran.keys == {f"public.acct(id)=({n})" for n in (1, 2, 4)} | {
        f"public.acct(email)=({name}@x)" for name in ("a", "b", "d", "z")
    }
    ((table, columns, befores, afters),) = ran.images
    assert (table, columns) == ("acct", ["id", "bal", "email", "note"])
    assert sorted(zip(befores, afters, strict=True), key=str) == [
        ("(1,100,a@x,one)", "(1,105,z@x,one)"),
        ("(2,200,b@x,)", None),
        (None, "(4,7,d@x,)"),
    ]


@pytest.mark.usefixtures("acct")
def test_what_comes_back_by_a_star(connection: Connection) -> None:
    if connection.info.server_version >= 180_000:
        merge = "MERGE INTO acct USING (SELECT 3 AS k) AS s ON id = k WHEN MATCHED THEN UPDATE SET note = 'n' RETURNING *"
        assert [(tuple(map(str, row))) for row in run(connection, merge).rows] == [("3", "3", "300", "None", "n")]


def test_it_is_undone(fresh_postgres18_url: FreshUrl) -> None:
    engine = create_engine(fresh_postgres18_url("psycopg"))
    metadata.create_all(engine)
    plain(
        engine,
        "CREATE TABLE acct (id int PRIMARY KEY, bal numeric NOT NULL, email text UNIQUE, "
        "twice numeric GENERATED ALWAYS AS (bal * 2) STORED)",
        "INSERT INTO acct (id, bal, email) VALUES (1, 100.0, 'a@x'), (2, 200, 'b@x'), (3, 300, NULL)",
    )
    before = rows(engine, "acct")
    swap = (
        "MERGE INTO acct USING (VALUES (1, 'b@x'), (3, 'a@x')) AS s (k, e) ON id = k WHEN MATCHED THEN UPDATE SET email = NULL "
        "WHEN NOT MATCHED BY SOURCE THEN DELETE"
    )
    phase_one(engine, "x", 7, MERGE.replace("%s", "'d@x'"), swap)
    assert rows(engine, "acct") != before
    with engine.begin() as connection:
        assert undo(connection, "x", [7], facts_on(connection)) == []
    assert rows(engine, "acct") == before
    engine.dispose()


@pytest.mark.usefixtures("acct")
def test_what_it_must_not_do(connection: Connection) -> None:
    connection.execute("CREATE TABLE numbered (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int)")
    connection.execute("CREATE TABLE child (a int REFERENCES acct ON DELETE CASCADE)")
    for merge, reason in (
        (
            "MERGE INTO numbered USING acct AS s ON n = s.id WHEN MATCHED THEN UPDATE SET n = 1, id = DEFAULT",
            "numbered by the database",
        ),
        ("MERGE INTO acct USING numbered ON acct.id = n WHEN MATCHED THEN DELETE", "rows of public.child change with it"),
    ):
        with pytest.raises(UnsupportedSqlError, match=reason):
            run(connection, merge)
