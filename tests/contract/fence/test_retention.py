"""Which fence rows go: only those that the coordinator calls settled or expired, only old ones, over any number of pages."""

from __future__ import annotations

from collections import Counter

import pytest
from sqlalchemy import Engine, text
from txcoord_proto.status import Settlement
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.database import Database
from txcoord_sdk.fence import fence
from txcoord_sdk.fence.retention import boot_time, purge_steps
from txcoord_sdk.session.requests import Sink
from txcoord_sdk.transaction.effects import drive

OLD = 8 * 24 * 3600 * 1000
ANSWERS = [Settlement.SETTLED, Settlement.EXPIRED, Settlement.UNSETTLED, Settlement.UNKNOWN]


def answer_of(xid: str) -> Settlement:
    return ANSWERS[int(xid[-4:]) % 4]


class Answers:
    """What a coordinator says; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def settled(self, xids: list[str], sink: Sink) -> None:
        self.asked.append(len(xids))
        sink(pb.SettledReply(settlements=[answer_of(xid).value for xid in xids]), None)


@pytest.fixture
def filled(database: Database, engine: Engine) -> Database:
    with engine.begin() as connection:
        rows = [
            {"xid": f"default.000000001.{n:08d}", "b": b, "s": s}
            for n in range(1200)
            for b, s in ((1, "TRIED"), (2, "SUSPENDED"))
        ]
        insert = (
            "INSERT INTO txcoord_fence (xid, branch_id, resource, state, created_at, changed_at) VALUES (:xid, :b, 'r', :s, 0, 0)"
        )
        connection.execute(text(insert), rows)
    return database


def left(engine: Engine) -> Counter[Settlement]:
    with engine.connect() as connection:
        return Counter(answer_of(xid) for xid in connection.scalars(text("SELECT xid FROM txcoord_fence WHERE resource = 'r'")))


def test_only_what_is_settled_goes(filled: Database, engine: Engine) -> None:
    answers = Answers()
    removed = drive(purge_steps(filled.run, answers.settled, OLD / 1000))
    assert removed == 1200
    assert left(engine) == {Settlement.UNSETTLED: 600, Settlement.UNKNOWN: 600}
    assert sum(answers.asked) == 1200, "each is asked for once"
    assert max(answers.asked) <= 500
    assert drive(purge_steps(filled.run, answers.settled, OLD / 1000)) == 0


def test_young_rows_stay_and_are_not_even_asked_for(filled: Database, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM txcoord_fence"))
    for number in range(4):
        filled.run(lambda c, n=number: fence.tried(c, f"default.000000001.{n:08d}", 1, "r"))  # type: ignore[misc]
    answers = Answers()
    assert drive(purge_steps(filled.run, answers.settled, OLD / 1000)) == 0
    assert answers.asked == []
    assert sum(left(engine).values()) == 4


def test_the_clock_of_ages_is_not_the_one_that_people_set() -> None:
    first = boot_time()
    assert boot_time() >= first > 0
