"""Many rows in one AT transaction: how much longer than plainly, how long their rollback takes, and how fast records go.

Each figure is of one database family; plain and AT statements are measured in turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import (
    Column,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    delete,
    func,
    insert,
    inspect,
    select,
    update,
)
from txcoord_rm import enroll
from txcoord_rm.undo.log import forget, undo_log
from txcoord_sdk import connect
from txcoord_sdk.client import Client
from txcoord_sdk.testing import CoordinatorProcess, wait_until

from tests.benchmarks.figure import Figure
from tests.servers import ServerName, fresh_database, running

INSERTED, UPDATED, DELETED = 1_000, 10_000, 20_000
_TURNS = 5
_FREE = 1 << 40
"""Branch numbers from here on are not used by anybody."""
_FAMILIES: dict[str, tuple[ServerName | None, str]] = {
    "PostgreSQL": ("postgres18", "psycopg"),
    "MariaDB": ("mariadb", "pymysql"),
    "SQLite": (None, ""),
}
_metadata = MetaData()
_goods = Table(
    "goods",
    _metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("name", String(40), nullable=False),
    Column("free", Integer, nullable=False),
)
_ROWS = [{"id": n, "name": f"goods {n}", "free": 100} for n in range(UPDATED)]


class _Unwanted(Exception):
    """Has a transaction rolled back."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Two engines of one database, of which one is enrolled."""

    plain: Engine
    enrolled: Engine
    client: Client

    def seconds(self, inside: bool, work: Callable[[Engine], None]) -> float:
        """How long `work` takes, up to the end of its transaction."""
        started = time.perf_counter()
        if inside:
            with self.client.global_transaction(timeout=60.0):
                work(self.enrolled)
        else:
            work(self.plain)
        return time.perf_counter() - started


def figures(runs: int) -> list[Figure]:
    """All of the suite."""
    return [figure for family in _FAMILIES for figure in _family(family, runs)]


def _family(family: str, runs: int) -> Iterator[Figure]:
    with _open(family) as place:
        yield Figure(
            f"AT / plain time, {family}, {INSERTED:,} rows inserted", _ratios(place, runs, _empty, _insert), 1.6, None, False
        )
        yield Figure(
            f"AT / plain time, {family}, {UPDATED:,} rows updated", _ratios(place, runs, _fill, _update), 3.0, None, False
        )
        yield Figure(f"s, {family}, rollback of {UPDATED:,} rows", tuple(_rollback(place) for _ in range(runs)), 2.0, None, False)
        floor = 200_000 if family == "PostgreSQL" else None
        yield Figure(f"undo records deleted/s, {family}", tuple(_deletion(place) for _ in range(runs)), floor, None)


@contextmanager
def _open(family: str) -> Iterator[_Place]:
    server, driver = _FAMILIES[family]
    with ExitStack() as stack:
        if server is None:
            url = f"sqlite:///{Path(stack.enter_context(TemporaryDirectory()))}/goods.db"
        else:
            url = stack.enter_context(fresh_database(stack.enter_context(running(server)), driver))
        plain, enrolled = create_engine(url), create_engine(url)
        _metadata.create_all(plain)
        client = stack.enter_context(connect(stack.enter_context(CoordinatorProcess()).address, service="bench"))
        enroll(enrolled, client)
        assert client.wait_connected()
        yield _Place(plain, enrolled, client)
        plain.dispose()
        enrolled.dispose()


def _ratios(place: _Place, runs: int, prepare: Callable[[Engine], None], work: Callable[[Engine], None]) -> tuple[float, ...]:
    """AT / plain time of each run: medians of several turns; the first turn only warms."""
    found = []
    for _ in range(runs):
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(_TURNS + 1):
            for inside in (False, True):
                prepare(place.plain)
                times[inside].append(place.seconds(inside, work))
                _settle(place)
        plain, at = (statistics.median(side[1:]) for side in times)
        print(f"{place.plain.dialect.name}, {work.__name__[1:]}: plain {plain * 1e3:.1f} ms, AT {at * 1e3:.1f} ms", flush=True)
        found.append(at / plain)
    return tuple(found)


def _settle(place: _Place) -> None:
    """Wait until nothing is left of the last transaction."""
    if inspect(place.plain).has_table(undo_log.name):
        wait_until(lambda: not _records(place.plain), 30, "the end of all undo records")


def _records(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).where(undo_log.c.state == "IMAGE")).scalar_one()


def _empty(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(delete(_goods))


def _fill(engine: Engine) -> None:
    _empty(engine)
    with engine.begin() as connection:
        connection.execute(insert(_goods), _ROWS)


def _insert(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(insert(_goods).returning(_goods.c.id), _ROWS[:INSERTED]).all()


def _update(engine: Engine) -> None:
    with engine.begin() as connection:
        assert connection.execute(update(_goods).values(free=_goods.c.free - 1)).rowcount == UPDATED


def _rollback(place: _Place) -> float:
    """Seconds from the request to the end."""
    _fill(place.plain)
    started = 0.0
    with suppress(_Unwanted), place.client.global_transaction(timeout=60.0):
        _update(place.enrolled)
        started = time.perf_counter()
        raise _Unwanted
    seconds = time.perf_counter() - started
    _settle(place)
    return seconds


def _deletion(place: _Place) -> float:
    """Records deleted a second, as the second phase of commits deletes them: 1,000 branches at a time."""
    with place.client.global_transaction():
        with place.enrolled.begin() as connection:
            connection.execute(update(_goods).where(_goods.c.id == 1).values(free=_goods.c.free - 1))
        with place.plain.connect() as connection:
            record = connection.execute(select(undo_log).where(undo_log.c.state == "IMAGE")).mappings().one()
    _settle(place)
    branches = [("x", _FREE + n) for n in range(DELETED)]
    with place.plain.begin() as connection:
        connection.execute(insert(undo_log), [{**record, "xid": xid, "branch_id": n} for xid, n in branches])
    started = time.perf_counter()
    for first in range(0, DELETED, 1_000):
        with place.plain.begin() as connection:
            assert forget(connection, branches[first : first + 1_000]) == 1_000
    return DELETED / (time.perf_counter() - started)
