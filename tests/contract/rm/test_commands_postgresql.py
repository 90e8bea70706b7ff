"""`txcoord-agent init`, `check` and `undo` on PostgreSQL, as an operator runs them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, create_engine, make_url
from txcoord_rm import alembic as helper
from txcoord_rm.commands.check import check_command
from txcoord_rm.commands.init import init_command
from txcoord_rm.commands.undo import undo_command
from txcoord_rm.schema import TABLES

from tests.contract.rm.branches import log, phase_one, plain, rows
from tests.servers.fixtures import FreshUrl

X = "g.1.00000001"


@pytest.fixture(params=["postgres", "postgres18"])
def url(request: pytest.FixtureRequest) -> str:
    """Of a new empty database."""
    fresh: FreshUrl = request.getfixturevalue(f"fresh_{request.param}_url")
    return fresh("psycopg")


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """Of a database with our tables and three rows."""
    assert CliRunner().invoke(init_command, [url]).exit_code == 0
    engine = create_engine(url)
    plain(
        engine,
        "CREATE TABLE acct (id int PRIMARY KEY, bal numeric NOT NULL, email text UNIQUE, note text)",
        "INSERT INTO acct VALUES (1, 100.00, 'a@x', 'one'), (2, 200, 'b@x', NULL), (3, 300, NULL, 'three')",
    )
    yield engine
    engine.dispose()


Undo = Callable[..., Result]


@pytest.fixture
def undo(url: str, engine: Engine) -> Undo:
    """Runs `txcoord-agent undo ... --database URL`."""
    return lambda *words, **more: CliRunner().invoke(undo_command, [*words, "--database", url], **more)


def document(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# ---------------------------------------------------------------- init


def test_init_makes_all_tables_and_says_so_again(url: str) -> None:
    made = CliRunner().invoke(init_command, [url])
    assert made.exit_code == 0, made.output
    assert document(CliRunner().invoke(init_command, [url, "--json"]))["database"] in made.output
    engine = create_engine(url)
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        assert set(found.scalars()) == {table.name for table in TABLES}
    engine.dispose()


def test_init_prints_what_it_would_run(url: str) -> None:
    printed = CliRunner().invoke(init_command, [url, "--sql"])
    assert printed.exit_code == 0, printed.output
    assert "CREATE TABLE IF NOT EXISTS txcoord_undo_log" in printed.stdout
    engine = create_engine(url)
    assert "txcoord_undo_log: it is not there" in CliRunner().invoke(check_command, [url]).stdout, "nothing was run"
    plain(engine, printed.stdout, printed.stdout)
    assert CliRunner().invoke(check_command, [url]).exit_code == 0
    statements = document(CliRunner().invoke(init_command, [url, "--sql", "--json"]))["statements"]
    assert len(statements) == len(TABLES)
    offline = CliRunner().invoke(init_command, ["mysql+pymysql://nobody@nowhere/x", "--sql"])
    assert "ENGINE=InnoDB" in offline.stdout
    engine.dispose()


def test_an_asynchronous_driver_is_refused_with_the_remedy() -> None:
    refused = CliRunner().invoke(init_command, ["postgresql+asyncpg://x@127.0.0.1/x"])
    assert refused.exit_code == 1
    assert "use a synchronous one, such as postgresql+psycopg" in " ".join(refused.output.split())


def test_the_helper_for_migrations(url: str) -> None:
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    engine = create_engine(url)
    with engine.begin() as connection:
        op = Operations(MigrationContext.configure(connection))
        helper.upgrade(op)
        helper.upgrade(op)
    assert CliRunner().invoke(check_command, [url]).exit_code == 0
    with engine.begin() as connection:
        helper.downgrade(Operations(MigrationContext.configure(connection)))
    assert CliRunner().invoke(check_command, [url]).exit_code == 1
    engine.dispose()


# ---------------------------------------------------------------- check


def test_check_is_content(url: str, engine: Engine) -> None:
    checked = CliRunner().invoke(check_command, [url])
    assert checked.exit_code == 0, checked.output
    assert "SELECT, INSERT, UPDATE, DELETE on txcoord_undo_log" in checked.stdout
    assert "max_prepared_transactions = " in checked.stdout
    assert "every change of 1 tables can be undone" in checked.stdout
    found = document(CliRunner().invoke(check_command, [url, "--json"]))
    assert found["well"] is True
    assert {check["verdict"] for check in found["checks"]} == {"ok"}


def test_check_names_tables_that_cannot_be_undone_with_the_remedy(url: str, engine: Engine) -> None:
    plain(
        engine,
        "CREATE TABLE heap (a int)",
        "CREATE SCHEMA other",
        "CREATE TABLE other.child (id int PRIMARY KEY, acct int REFERENCES acct ON DELETE CASCADE)",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER audit AFTER INSERT ON other.child FOR EACH ROW EXECUTE FUNCTION f()",
    )
    checked = CliRunner().invoke(check_command, [url])
    assert checked.exit_code == 0, "they are only kept out of global transactions"
    lines = [line for line in checked.stdout.splitlines() if line.startswith("warning")]
    assert len(lines) == 3
    assert (
        "public.heap: it has no primary key, so that every change is refused; ALTER TABLE ... ADD PRIMARY KEY" in checked.stdout
    )
    assert "public.acct: DELETE is refused: rows of other.child change with it" in checked.stdout
    assert "other.child: INSERT is refused: the trigger audit may change other rows" in checked.stdout


def test_check_finds_a_table_of_another_version(url: str, engine: Engine) -> None:
    plain(engine, "ALTER TABLE txcoord_undo_log DROP COLUMN format", "ALTER TABLE txcoord_fence ADD COLUMN more int")
    checked = CliRunner().invoke(check_command, [url])
    assert checked.exit_code == 1
    assert "txcoord_undo_log: it is of another version, without format" in checked.stdout
    assert "txcoord_fence: it is of another version, with more" in checked.stdout


def test_check_asks_for_what_the_user_may_do(url: str, engine: Engine) -> None:
    clerk = make_url(url)
    role = f"clerk_{str(clerk.database)[-6:]}"
    plain(
        engine,
        f"CREATE ROLE {role} LOGIN PASSWORD 'x'",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON txcoord_fence, txcoord_database TO {role}",
        f"GRANT SELECT, INSERT ON txcoord_undo_log TO {role}",
        f"ALTER ROLE {role} SET default_transaction_isolation = 'repeatable read'",
    )
    try:
        clerk = clerk.set(username=role, password="x")
        checked = CliRunner().invoke(check_command, [clerk.render_as_string(hide_password=False)])
    finally:
        plain(engine, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    assert checked.exit_code == 1
    assert "GRANT UPDATE, DELETE ON txcoord_undo_log" in checked.stdout
    assert "SELECT, INSERT, UPDATE, DELETE on txcoord_fence" in checked.stdout
    assert "default_transaction_isolation = repeatable read: a statement that would have to wait" in checked.stdout


def test_a_database_that_is_away_is_said_to_be() -> None:
    refused = CliRunner().invoke(check_command, ["postgresql+psycopg://nobody@127.0.0.1:1/x?connect_timeout=1", "--json"])
    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["error"]["code"] == "RESOURCE_UNAVAILABLE"


# ---------------------------------------------------------------- undo ls and show


def test_ls_lists_by_transaction_and_age(undo: Undo, engine: Engine) -> None:
    assert undo("ls").stdout == "none\n"
    phase_one(engine, X, 1, "UPDATE acct SET bal = 1 WHERE id = 1", "DELETE FROM acct WHERE id = 2")
    phase_one(engine, X, 2, "UPDATE acct SET bal = 2 WHERE id = 3")
    phase_one(engine, "older", 3, "UPDATE acct SET bal = 3 WHERE id = 3")
    plain(engine, "UPDATE txcoord_undo_log SET created_at = created_at - 7200 * 1000 WHERE xid = 'older'")
    assert [line.split() for line in undo("ls").stdout.splitlines()][:2] == [
        ["XID", "STATE", "BRANCHES", "RECORDS", "AGE"], ["older", "IMAGE", "1", "1", "2", "h"],
    ]  # fmt: skip
    listed = document(undo("ls", "--json"))["transactions"]
    assert [(row["xid"], row["branches"], row["records"]) for row in listed] == [("older", 1, 1), (X, 2, 3)]
    assert listed[0]["age"] >= 7_200_000 > listed[1]["age"]
    assert document(undo("ls", "--json", "--state", "guard")) == {"transactions": []}


def test_show_is_a_table_that_a_person_reads(undo: Undo, engine: Engine) -> None:
    phase_one(engine, X, 7, "UPDATE acct SET bal = 1, note = NULL WHERE id = 1", "INSERT INTO acct VALUES (9, 9, NULL, E'a\\tb')")
    phase_one(engine, X, 8, "DELETE FROM acct WHERE id = 3")
    shown = undo("show", X)
    assert shown.exit_code == 0, shown.output
    assert [line.split() for line in shown.stdout.splitlines()] == [
        ["BRANCH", "DID", "TABLE", "ROW", "COLUMN", "BEFORE", "AFTER"],
        ["8", "DELETE", "public.acct", "id=3", "id", "3", "-"],
        ["8", "DELETE", "public.acct", "id=3", "bal", "300", "-"],
        ["8", "DELETE", "public.acct", "id=3", "email", "NULL", "-"],
        ["8", "DELETE", "public.acct", "id=3", "note", "three", "-"],
        ["7", "INSERT", "public.acct", "id=9", "id", "-", "9"],
        ["7", "INSERT", "public.acct", "id=9", "bal", "-", "9"],
        ["7", "INSERT", "public.acct", "id=9", "email", "-", "NULL"],
        ["7", "INSERT", "public.acct", "id=9", "note", "-", "a\\tb"],
        ["7", "UPDATE", "public.acct", "id=1", "bal", "100.00", "1"],
        ["7", "UPDATE", "public.acct", "id=1", "note", "one", "NULL"],
    ]
    assert "there are no undo records of other" in undo("show", "other").output
    assert undo("show", "other").exit_code == 1


def test_show_tries_it_and_changes_nothing(undo: Undo, engine: Engine) -> None:
    phase_one(engine, X, 7, "UPDATE acct SET bal = 1 WHERE id < 3")
    written, records = rows(engine, "acct"), log(engine)
    assert "every row can be put back" in undo("show", X, "--try").stdout
    plain(engine, "UPDATE acct SET bal = 77 WHERE id = 1")
    shown = undo("show", X, "--try").stdout
    assert "  public.acct(id=1).bal: was 100.00, became 1, is 77" in shown.splitlines()
    assert document(undo("show", X, "--try", "--json"))["differences"] == [
        {
            "tableName": "public.acct",
            "before": {"id": "1", "bal": "100.00"},
            "after": {"id": "1", "bal": "1"},
            "current": {"id": "1", "bal": "77"},
            "reason": "",
        }
    ]
    assert rows(engine, "acct")[1:] == written[1:]
    assert log(engine) == records


def test_the_document_has_the_form_of_seatas_undo_log(undo: Undo, engine: Engine) -> None:
    phase_one(engine, X, 7, "UPDATE acct SET bal = bal + 1 WHERE id < 3", "INSERT INTO acct VALUES (9, 9)")
    phase_one(engine, X, 8, "DELETE FROM acct WHERE id = 3")
    found = document(undo("show", X, "--json"))

    def row(**values: object) -> dict[str, Any]:
        types = {"id": "integer", "bal": "numeric"}
        return {
            "fields": [
                {
                    "name": name,
                    "keyType": "PRIMARY_KEY" if name == "id" else "NULL",
                    "type": types.get(name, "text"),
                    "value": value,
                }
                for name, value in values.items()
            ]
        }

    def image(*found: dict[str, Any]) -> dict[str, Any]:
        return {"tableName": "public.acct", "rows": list(found)}

    assert found == {
        "xid": X,
        "branches": [
            {
                "branchId": 7,
                "xid": X,
                "state": "IMAGE",
                "undoItems": [
                    {
                        "sqlType": "UPDATE",
                        "tableName": "public.acct",
                        "beforeImage": image(row(id="1", bal="100.00"), row(id="2", bal="200")),
                        "afterImage": image(row(id="1", bal="101.00"), row(id="2", bal="201")),
                    },
                    {
                        "sqlType": "INSERT",
                        "tableName": "public.acct",
                        "beforeImage": image(),
                        "afterImage": image(row(id="9", bal="9", email=None, note=None)),
                    },
                ],
            },
            {
                "branchId": 8,
                "xid": X,
                "state": "IMAGE",
                "undoItems": [
                    {
                        "sqlType": "DELETE",
                        "tableName": "public.acct",
                        "beforeImage": image(row(id="3", bal="300", email=None, note="three")),
                        "afterImage": image(),
                    }
                ],
            },
        ],
    }


# ---------------------------------------------------------------- acts

SURE = ("--without-coordinator", "--reason", "ticket 4711")


def test_force_restore_shows_asks_and_puts_back(undo: Undo, engine: Engine) -> None:
    before = rows(engine, "acct")
    phase_one(engine, X, 7, "UPDATE acct SET bal = 1 WHERE id = 1")
    phase_one(engine, X, 8, "UPDATE acct SET bal = 2 WHERE id = 1")
    plain(engine, "UPDATE acct SET bal = 77 WHERE id = 1")
    refused = undo("force-restore", X, *SURE, input="n\n")
    assert refused.exit_code == 1
    assert "public.acct(id=1).bal: was 1, became 2, is 77" in refused.stdout
    assert "Rows get what they had before, over whatever is there now." in refused.stdout
    assert rows(engine, "acct")[0] == "(1,77,a@x,one)"
    done = undo("force-restore", X, *SURE, input="y\n")
    assert done.exit_code == 0, done.output
    assert f"txcoord retry {X}" in done.stdout
    assert rows(engine, "acct") == before
    assert {state for *_, state in log(engine)} == {"UNDONE"}
    again = undo("force-restore", X, *SURE, "--yes")
    assert again.exit_code == 1
    assert "there is nothing of" in again.output


def test_force_restore_does_all_or_nothing(undo: Undo, engine: Engine) -> None:
    phase_one(engine, X, 7, "UPDATE acct SET bal = 1 WHERE id < 3")
    plain(engine, "DELETE FROM acct WHERE id = 1", "UPDATE acct SET bal = 5 WHERE id = 2")
    written = rows(engine, "acct")
    refused = undo("force-restore", X, *SURE, "--yes", "--json")
    assert refused.exit_code == 1
    error = json.loads(refused.stdout)["error"]
    assert error["code"] == "ROWS_DIFFER"
    assert "public.acct(id=1) is gone" in error["message"]
    assert rows(engine, "acct") == written


def test_accept_current_touches_no_row(undo: Undo, engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    phase_one(engine, X, 7, "UPDATE acct SET bal = 1 WHERE id < 3")
    written = rows(engine, "acct")
    done = document(undo("accept-current", X, *SURE, "--yes", "--json"))
    assert done == {"xid": X, "act": "accept-current", "branches": [7], "reason": "ticket 4711"}
    assert rows(engine, "acct") == written
    assert log(engine) == [(X, 7, 1, "UNDONE")]
    assert "accept-current of" in caplog.text
    assert "ticket 4711" in caplog.text


def test_a_record_that_nobody_can_read_can_be_accepted(undo: Undo, engine: Engine) -> None:
    phase_one(engine, X, 7, "UPDATE acct SET bal = 1 WHERE id < 3")
    plain(engine, "UPDATE txcoord_undo_log SET format = 99")
    refused = undo("force-restore", X, *SURE, "--yes")
    assert refused.exit_code == 1
    assert "has format 99" in refused.output
    assert undo("accept-current", X, *SURE, "--yes").exit_code == 0
    assert log(engine) == [(X, 7, 1, "UNDONE")]


def test_scripts_are_not_asked_but_have_to_be_certain(undo: Undo, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("txcoord_rm.commands.coordinator.ANSWER_SECONDS", 0.5)
    phase_one(engine, X, 7, "UPDATE acct SET bal = 1 WHERE id < 3")
    assert "add --yes" in undo("accept-current", X, *SURE, "--json").output
    assert "--reason" in undo("accept-current", X, "--without-coordinator", "--yes").output
    nobody = ("--address", "127.0.0.1:1", "--reason", "x", "--yes")
    refused = undo("accept-current", X, *nobody)
    assert refused.exit_code == 1
    assert "the coordinator has not said how" in refused.output
    assert log(engine) == [(X, 7, 1, "IMAGE")]
