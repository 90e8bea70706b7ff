"""Our tables in a service's database: made once by many, made by the command, and what is said where they may not be made."""

from __future__ import annotations

import json
import threading

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, create_engine, make_url, text
from txcoord_proto.errors import ConfigurationError
from txcoord_rm.commands.init import init_command
from txcoord_sdk.database import Database
from txcoord_sdk.participant import UnavailableError

from tests.servers.fixtures import FreshUrl


def test_many_processes_that_start_together_agree_on_the_identity(url: str) -> None:
    databases = [Database(create_engine(url), str(n)) for n in range(6)]
    meet = threading.Barrier(len(databases))
    found: list[str] = []

    def start(database: Database) -> None:
        meet.wait()
        found.append(database.prepare())

    threads = [threading.Thread(target=start, args=(database,)) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == len(databases)
    assert len(set(found)) == 1
    for database in databases:
        database.close()
        database.sync_engine.dispose()


def test_the_command_makes_the_tables(url: str, engine: Engine) -> None:
    made = CliRunner().invoke(init_command, [url])
    assert made.exit_code == 0, made.output
    again = CliRunner().invoke(init_command, [url])
    assert again.output == made.output
    database = Database(engine, "")
    assert database.prepare() in made.output
    assert json.loads(CliRunner().invoke(init_command, [url, "--json"]).stdout) == {"database": database.prepare()}
    database.close()
    refused = CliRunner().invoke(init_command, ["oracle://localhost/x"])
    assert refused.exit_code == 1
    assert "oracle is not supported" in refused.output
    for wrong in ("oracle://localhost/x", "nonsense"):
        refused = CliRunner().invoke(init_command, [wrong, "--json"])
        assert refused.exit_code == 1
        assert json.loads(refused.stdout)["error"]["code"] == "CONFIGURATION"


def test_a_user_who_may_not_create_tables_is_told_what_to_do(fresh_postgres_url: FreshUrl) -> None:
    url = make_url(fresh_postgres_url("psycopg"))
    owner = create_engine(url)
    role = f"clerk_{str(url.database)[-6:]}"
    with owner.begin() as connection:
        connection.execute(text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
        connection.execute(text(f"CREATE ROLE {role} LOGIN PASSWORD 'x'"))
    clerk = create_engine(url.set(username=role, password="x"))
    database = Database(clerk, "orders")
    with pytest.raises(ConfigurationError, match=r"run `txcoord-agent init URL` once as a user that may create tables"):
        database.prepare()
    CliRunner().invoke(init_command, [url.render_as_string(hide_password=False)])
    with owner.begin() as connection:
        connection.execute(text(f"GRANT SELECT, INSERT, UPDATE, DELETE ON txcoord_fence, txcoord_database TO {role}"))
    assert database.prepare()
    database.close()
    clerk.dispose()
    with owner.begin() as connection:
        connection.execute(text(f"DROP OWNED BY {role}"))
        connection.execute(text(f"DROP ROLE {role}"))
    owner.dispose()


def test_a_server_that_is_not_there_is_unavailable() -> None:
    database = Database(create_engine("postgresql+psycopg://nobody@127.0.0.1:1/x?connect_timeout=1"), "orders")
    with pytest.raises(UnavailableError, match="database 'orders' cannot be reached"):
        database.run(lambda c: None)
