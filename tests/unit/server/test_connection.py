"""What is queued for a client leaves in batches, none of them empty."""

from __future__ import annotations

import pytest
from txcoord_server.domain.answers import OK, SETTLED, Begun, Reported
from txcoord_server.engine.connection import MAX_QUEUED, Connection, Principal


@pytest.fixture
def connection() -> Connection:
    return Connection(Principal("all", "all"), "all-1")


def test_it_is_sendable_while_something_is_queued(connection: Connection) -> None:
    assert not connection.sendable.is_set()
    connection.answer(1, OK)
    assert connection.sendable.is_set()
    taken = connection.take(0)
    assert taken is not None
    assert taken.ok == [1]
    assert not connection.sendable.is_set()


def test_a_batch_that_takes_all_columns_to_their_caps_leaves_nothing(connection: Connection) -> None:
    for request_id in range(1, 4):
        connection.answer(request_id, OK)
        connection.answer(request_id, SETTLED)
        connection.answer(request_id, Begun("x"))
        connection.answer(request_id, Reported(request_id))
    taken = connection.take(3)
    assert taken is not None
    assert (taken.ok, taken.settled, taken.begun, taken.begun_xids, taken.reported) == (
        [1, 2, 3], [1, 2, 3], [1, 2, 3], ["x"] * 3, [1, 2, 3],
    )  # fmt: skip
    assert not connection.sendable.is_set(), "or the writer would take the empty queue for the stream's end"


def test_what_a_cap_leaves_comes_with_the_next_batch(connection: Connection) -> None:
    for request_id in range(1, 6):
        connection.answer(request_id, OK)
    batches = []
    while connection.sendable.is_set():
        batch = connection.take(2)
        assert batch is not None
        batches.append(batch.ok)
    assert batches == [[1, 2], [3, 4], [5]]


def test_a_closed_one_hands_out_what_is_left_and_then_ends(connection: Connection) -> None:
    connection.answer(1, OK)
    connection.close()
    assert connection.take(0) is not None
    assert connection.sendable.is_set()
    assert connection.take(0) is None


def test_one_that_is_not_read_is_ended(connection: Connection) -> None:
    for request_id in range(1, MAX_QUEUED + 2):
        connection.answer(request_id, OK)
    assert connection.overflowed.is_set()
    assert connection.sendable.is_set()
    assert connection.take(0) is None
