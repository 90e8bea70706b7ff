"""Values of every type of MariaDB come back to the bit, whatever the session's settings and the driver make of them."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from sqlalchemy import Connection
from txcoord_rm.capture.port import Entry

from tests.contract.rm.maria import EACH_DRIVER, Maria

ALL_BYTES = bytes(range(256)).hex()
LATIN = bytes(range(1, 256)).hex()
ZOO = {
    "tinyint": ["-128", "127", "0"], "smallint unsigned": ["65535"], "mediumint": ["-8388608"], "int(5) zerofill": ["7"],
    "bigint": ["-9223372036854775808"], "bigint unsigned": ["18446744073709551615"], "boolean": ["TRUE"],
    "decimal(65,30)": ["-12345678901234567890123456789012345.123456789012345678901234567890", "1.10"],
    "float": ["1.1234567", "-3.402823e38", "1e-45", "16777217"], "float(7,3)": ["1.125"],
    "double": ["5e-324", "1.7976931348623157e308", "0.1 + 0.2e0", "-2.2250738585072014e-308", "1e15", "123456789012345678e0"],
    "double(10,2)": ["1.1"], "bit(1)": ["1"], "bit(64)": ["18446744073709551615", "0"],
    "char(5)": ["'a  '", "''"], "varchar(40)": ["'  a  '", "'NULL'", r"'a\'b\\c,\"d%s%%(e)\n\t\0'", "'\U0001f600\u00df'"],
    "varchar(300) CHARACTER SET latin1": [f"_latin1 x'{LATIN}'"], "varchar(300) CHARACTER SET cp1251": [f"_cp1251 x'{LATIN}'"],
    "varchar(9) CHARACTER SET ucs2": ["'\u00e4b'"], "varchar(9) CHARACTER SET sjis": ["_sjis x'835c5c7e'"],
    "tinytext": ["'x'"], "text": ["REPEAT('ab%', 20000)"], "mediumtext": ["REPEAT('\u00fc', 9)"], "longtext": ["''"],
    "binary(5)": ["'a'", "x'0000'"], "varbinary(300)": [f"x'{ALL_BYTES}'", "''"], "tinyblob": ["x'00'"],
    "blob": ["REPEAT(x'00ff', 9000)"], "mediumblob": ["'%s'"], "longblob": ["x'5c27'"],
    "date": ["'0000-00-00'", "'9999-12-31'", "'2026-02-31'", "'2026-00-00'"],
    "datetime": ["'0000-00-00'", "'2026-10-25 02:30:00'"], "datetime(6)": ["'9999-12-31 23:59:59.999999'"],
    "timestamp NULL": ["0", "FROM_UNIXTIME(1)", "FROM_UNIXTIME(2147483647)"], "timestamp(6) NULL": ["FROM_UNIXTIME(1.000001)"],
    "time": ["'-838:59:59'", "'838:59:59'"], "time(6)": ["'00:00:00.000001'"], "year": ["0", "1901", "2155"],
    "enum('red','','bl ue')": ["'red'", "''", "'bl ue'", "'none'"], "set('a','b','c d')": ["''", "'a,c d'"],
    "json": ["""'{"a": 1,  "a":2}'""", "'null'"], "uuid": ["'0f8fad5b-d9cb-469f-a165-70867728950e'"],
    "inet6": ["'::1'"], "inet4": ["'10.1.2.3'"],
    "point": ["ST_GeomFromText('POINT(1 2.5)', 4326)"], "geometry": ["ST_GeomFromText('GEOMETRYCOLLECTION(POINT(1 1))')"],
}  # fmt: skip


def _make(maria: Maria, extra: str = "") -> None:
    columns = [f"c{n} {kind}" for n, kind in enumerate(ZOO)]
    maria.plain(f"CREATE TABLE zoo (id int PRIMARY KEY, {', '.join(columns)}{extra}) ROW_FORMAT=DYNAMIC")
    deepest = max(map(len, ZOO.values()))
    rows = [", ".join(values[n] if n < len(values) else "NULL" for values in ZOO.values()) for n in range(deepest + 1)]
    rows = [f"({n}, {row})" for n, row in enumerate(rows)]
    maria.plain(
        "SET sql_mode = 'ALLOW_INVALID_DATES'", "SET time_zone = '+00:00'", f"INSERT INTO zoo VALUES {', '.join(rows)}",
    )  # fmt: skip


def _lenient(maria: Maria, job: Any, zone: str = "+00:00") -> Any:
    def there(connection: Connection) -> Any:
        connection.exec_driver_sql("SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = %s", (zone,))
        return job(connection)

    return maria.work(there)


@EACH_DRIVER
def test_values_of_every_type(maria: Maria) -> None:
    _make(maria)
    before = maria.state("zoo")
    assert len(maria.rows("zoo", "id")) > 5
    nulls = ", ".join(f"c{n} = NULL" for n in range(len(ZOO)))
    assert maria.undo(maria.branch(f"UPDATE zoo SET {nulls}")) == []
    assert maria.state("zoo") == before
    assert maria.undo(maria.branch("DELETE FROM zoo", "INSERT INTO zoo (id) VALUES (1)")) == []
    assert maria.state("zoo") == before
    maria.plain("CREATE TABLE copy LIKE zoo")
    empty = maria.state("copy")

    def fill(connection: Connection) -> None:
        maria.captured(connection, "INSERT INTO copy SELECT * FROM zoo", None, Entry("x", 70, first=True))

    _lenient(maria, fill)
    assert maria.state("copy")[0][1] == before[0][1]
    assert maria.undo(70) == []
    assert maria.state("copy") == empty


@pytest.mark.parametrize("zone", ["+05:30", "-11:00"])
def test_the_time_zone_of_the_session_changes_nothing(maria: Maria, zone: str) -> None:
    maria.plain(
        "CREATE TABLE t (id int, at timestamp(3) NOT NULL DEFAULT 0, day datetime, PRIMARY KEY (id, at))",
        "SET sql_mode = ''", "SET time_zone = '+02:00'",
        "INSERT INTO t VALUES (1, '2026-10-25 02:30:00.5', '2026-10-25 02:30:00'), (2, 0, 0), (3, '2038-01-19 05:14:07', NULL)",
    )  # fmt: skip
    before = maria.state("t")

    def job(connection: Connection) -> None:
        for n, sql in enumerate(("UPDATE t SET day = NULL", "UPDATE t SET day = '2020-01-01' WHERE id > 1", "DELETE FROM t")):
            maria.captured(connection, sql, None, Entry("x", 5, first=n == 0))

    _lenient(maria, job, zone)
    assert maria.images(5)[0][2][0] == ("1", "2026-10-25 00:30:00.500", "2026-10-25 02:30:00")
    assert maria.rows("t") == []
    assert maria.undo(5) == []
    assert maria.state("t") == before


def test_floating_point_numbers_of_all_sizes(maria: Maria) -> None:
    chance = random.Random(7)
    doubles = [struct.unpack("d", struct.pack("Q", chance.getrandbits(64)))[0] for _ in range(400)]
    singles = [struct.unpack("f", struct.pack("I", chance.getrandbits(32)))[0] for _ in range(400)]
    rows = [(n, d, f) for n, (d, f) in enumerate(zip(doubles, singles)) if abs(d) < 1e308 and abs(f) < 3e38]
    maria.plain("CREATE TABLE f (id int PRIMARY KEY, d double, f float)", "CREATE TABLE g (d double PRIMARY KEY)")
    maria.work(lambda c: c.exec_driver_sql("INSERT INTO f VALUES (%s, %s, %s)", rows))
    maria.plain("INSERT IGNORE INTO g SELECT d FROM f")
    before = maria.state("f", "g")
    assert len(maria.rows("g")) > 300
    branch = maria.branch("UPDATE f SET d = id, f = id", "DELETE FROM f", "DELETE FROM g WHERE d > 0", "DELETE FROM g")
    assert maria.undo(branch) == []
    assert maria.state("f", "g") == before


@EACH_DRIVER
def test_a_large_column_that_does_not_change_stays_out_of_the_record(maria: Maria) -> None:
    maria.plain("CREATE TABLE l (id int PRIMARY KEY, v int, t longtext, b longblob)")
    chance = random.Random(1)
    text, data = "".join(map(chr, chance.choices(range(32, 0x2FF), k=1_000_000))), chance.randbytes(1_000_000)
    maria.work(lambda c: c.exec_driver_sql(f"INSERT INTO l VALUES (1, 1, %s, x'{data.hex()}')", (text,)))
    before = maria.state("l")
    small = maria.branch("UPDATE l SET v = 2")
    assert maria.images()[0][1] == ["id", "v"]
    large = maria.branch("UPDATE l SET t = CONCAT(t, 'x'), b = ''", "DELETE FROM l")
    assert maria.undo(small, large) == []
    assert maria.state("l") == before


@pytest.mark.parametrize(
    "kind", ["enum('x','y','z')", "set('x','y')", "bit(7)", "date", "decimal(9,3)", "year", "binary(3)", "uuid", "time(2)"]
)
def test_keys_of_other_types(maria: Maria, kind: str) -> None:
    values = {
        "enum": ("'y'", "'z'"), "set": ("'x'", "'x,y'"), "bit": ("5", "6"), "date": ("'2026-01-01'", "'0001-01-01'"),
        "dec": ("1.5", "2"), "year": ("2001", "0"), "bin": ("'a'", "x'00ff'"), "uuid": ("UUID()", "UUID()"),
        "time": ("'01:02:03.5'", "'-1:0:0'"),
    }  # fmt: skip
    one, two = next(pair for name, pair in values.items() if kind.startswith(name))
    maria.plain(f"CREATE TABLE k (k {kind} PRIMARY KEY, v int)", f"INSERT INTO k VALUES ({one}, 1), ({two}, 2)")
    before = maria.state("k")
    branch = maria.branch("UPDATE k SET v = v + 1", "DELETE FROM k WHERE v = 2", "UPDATE k SET v = 9", "DELETE FROM k")
    assert [result.rowcount for result in maria.results] == [2, 1, 1, 1]
    assert maria.undo(branch) == []
    assert maria.state("k") == before
