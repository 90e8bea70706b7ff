"""Many rows on MariaDB come as one text, and are found by ranges: nothing is other than if they came one by one."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Connection
from txcoord_rm.capture import mysql_keys, mysql_record, mysql_run
from txcoord_rm.capture.mysql_keys import Reading, select_packed

from tests.contract.rm.maria import Maria

ROWS = 300


@pytest.fixture(autouse=True)
def goods(maria: Maria) -> None:
    maria.plain(
        "CREATE TABLE goods (id int PRIMARY KEY, free int NOT NULL, note text, UNIQUE (note(20)))",
        f"INSERT INTO goods SELECT seq, 100, NULL FROM seq_1_to_{ROWS} WHERE seq % 50 <> 7",
    )


def changed(maria: Maria, sql: str) -> list[tuple[Any, Any]]:
    """Images of the rows that a statement has changed, by number, if they come back as they were."""
    before = maria.state("goods")
    branch = maria.branch(sql)
    found = [pair for record in maria.images() for pair in zip(record[2], record[3])]
    assert maria.undo(branch) == []
    assert maria.state("goods") == before
    return sorted(found, key=lambda pair: int(pair[0][0]))


@pytest.mark.parametrize("connection_collation", ["utf8mb4_unicode_ci", "utf8mb4_bin"])
def test_every_character_comes_in_one_text_as_it_comes_alone(maria: Maria, connection_collation: str) -> None:
    maria.plain(
        "CREATE TABLE texts (id int, at timestamp(2) NULL, u varchar(9) COLLATE utf8mb4_bin, l varchar(9) CHARACTER SET latin1, "
        "e enum('a\"b', 'c\\\\d', '') , j json, d double, PRIMARY KEY (id, u))",
        "INSERT INTO texts SELECT seq, FROM_UNIXTIME(seq), CHAR(seq USING utf32), NULL, NULLIF(seq % 4, 0), NULL, seq / 3 "
        "FROM seq_1_to_55295",
        "INSERT INTO texts SELECT seq + 70000, NULL, CONCAT(CHAR(0x1f600 + seq USING utf32), '\"'), CHAR(seq USING latin1), "
        "NULL, '{\"a\": [1]}', NULL FROM seq_0_to_255",
    )

    def job(connection: Connection) -> None:
        cursor = connection.connection.cursor()
        cursor.execute(f"SET NAMES utf8mb4 COLLATE {connection_collation}")
        table = maria.known(cursor, maria.database, "texts")
        assert table is not None
        reading = Reading(table, [column.name for column in table.columns], ["id", "u", "l", "e", "d"])
        cursor.execute(f"SELECT {reading.columns('t')} FROM texts AS t ORDER BY id")
        alone = reading.columns_of(cursor.fetchall())
        together: list[list[Any]] = [[] for _ in alone]
        for part in range(8):
            cursor.execute(f"{select_packed(reading.packed('t'))} FROM (SELECT * FROM texts) AS t WHERE id DIV 10000 = {part}")
            ((count, packed),) = cursor.fetchall()
            columns = reading.unpacked(count, packed)
            assert columns is not None
            for column, values in zip(together, columns, strict=True):
                column += values
        assert len(together[0]) == 55295 + 256
        assert [list(column) for column in alone] == together

    maria.work(job)


@pytest.mark.parametrize("few", [0, 20])
def test_the_rows_of_a_condition_and_no_other(maria: Maria, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mysql_run, "FEW", few)
    images = changed(maria, "UPDATE goods SET free = free - id % 2 WHERE id > 40")
    odd = [n for n in range(41, ROWS + 1, 2) if n % 50 != 7]
    assert images == [((str(n), "100"), (str(n), "99")) for n in odd]
    deleted = changed(maria, "DELETE FROM goods WHERE id % 3 = 0")
    assert [int(before[0]) for before, _ in deleted] == [n for n in range(3, ROWS + 1, 3) if n % 50 != 7]


def test_keys_of_unique_columns_before_and_after(maria: Maria) -> None:
    ran = maria.run("UPDATE goods SET note = CONCAT('n\"', id) WHERE free = 100")
    assert ran.rowcount == len(maria.rows("goods"))
    own = {f"{maria.database}.goods(id)=({row[0]})" for row in maria.rows("goods")}
    assert own < ran.keys


def test_a_text_that_the_database_cuts_is_not_used(maria: Maria, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mysql_keys, "_MOST", 100)
    assert len(changed(maria, "UPDATE goods SET free = 1")) == len(maria.rows("goods"))
    assert len(changed(maria, "DELETE FROM goods")) == len(maria.rows("goods"))


def test_a_value_too_long_for_the_text_is_no_null(maria: Maria) -> None:
    """What would be longer than a packet in JSON leaves its row out, and all rows are read one by one."""
    note = "CONCAT(id, REPEAT('\n', 10000000))"
    maria.plain("ALTER TABLE goods MODIFY note longtext", f"UPDATE goods SET note = {note} WHERE id = 1")
    (image,) = changed(maria, "UPDATE goods SET note = NULL WHERE free = 100 AND note IS NOT NULL")
    assert image == (("1", "1" + "\n" * 10_000_000), ("1", None))


def test_images_of_many_rows_are_records_of_a_packet_each(maria: Maria, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mysql_record, "LARGE", 1000)
    assert len(changed(maria, "UPDATE goods SET free = 1")) == len(maria.rows("goods"))
    maria.branch("UPDATE goods SET free = 2")
    assert len(maria.images()) > 4


def test_the_settings_of_the_session_stay(maria: Maria) -> None:
    def job(connection: Connection) -> None:
        connection.exec_driver_sql("SET SESSION group_concat_max_len = 4")
        maria.captured(connection, "UPDATE goods SET free = 3")
        assert connection.exec_driver_sql("SELECT GROUP_CONCAT(free) FROM goods").scalar_one() == "3,3,"

    maria.work(job)
