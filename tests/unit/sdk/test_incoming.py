"""Whose calls are let into their callers' transactions."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from txcoord_proto.xid import Xid
from txcoord_sdk import (
    Client,
    ClientConfig,
    ConfigurationError,
    DeadlinePassedError,
    ForeignXidError,
    TransactionEndedError,
    TxcoordError,
    current_headers,
    joined,
)
from txcoord_sdk.carriers.incoming import LONGEST, Admission
from txcoord_sdk.carriers.outgoing import OutgoingCall
from txcoord_sdk.context import entered
from txcoord_sdk.transaction.isolation import at_level

XID = str(Xid("default", 7, 1))
CLIENT = Client(ClientConfig("stock"))


def arrive(admission: Admission, *xids: str, timeout: str = "", peer: str = "10.1.2.3", call: Any = None) -> str:
    """The XID with which a call takes part; empty: with none."""
    transaction = admission.transaction(xids, timeout, peer, call)
    assert transaction is None or not transaction.initiator
    return transaction.known_xid if transaction is not None else ""


def test_everybody_is_trusted_unless_the_service_says_otherwise() -> None:
    assert arrive(Admission(CLIENT), XID) == XID
    assert arrive(Admission(CLIENT), XID, XID) == XID
    assert arrive(Admission(CLIENT)) == ""


@pytest.mark.parametrize(
    ("trust", "peer", "trusted"),
    [
        (["10.0.0.0/8", "127.0.0.1"], "10.1.2.3", True),
        (["10.0.0.0/8", "127.0.0.1"], "127.0.0.1", True),
        (["10.0.0.0/8", "127.0.0.1"], "::ffff:10.1.2.3", True),
        (["10.0.0.0/8", "127.0.0.1"], "192.168.0.1", False),
        (["10.0.0.0/8", "127.0.0.1"], "", False),
        ("fd00::/8", "fd00::1", True),
        ([], "10.1.2.3", False),
        (lambda call: call == "signed", "192.168.0.1", True),
        (lambda call: call == "unsigned", "10.1.2.3", False),
    ],
)
def test_strangers(trust: Any, peer: str, trusted: bool) -> None:
    refusing, ignoring = Admission(CLIENT, trust), Admission(CLIENT, trust, strangers="ignore")
    if trusted:
        assert arrive(refusing, XID, peer=peer, call="signed") == XID
        assert arrive(ignoring, XID, peer=peer, call="signed") == XID
    else:
        with pytest.raises(ForeignXidError):
            arrive(refusing, XID, peer=peer, call="signed")
        assert arrive(ignoring, XID, peer=peer, call="signed") == ""
        assert arrive(refusing, peer=peer) == ""


def test_a_stranger_learns_nothing_of_what_an_xid_looks_like() -> None:
    with pytest.raises(ForeignXidError):
        arrive(Admission(CLIENT, []), "nonsense")


@pytest.mark.parametrize(
    ("xids", "code"),
    [
        (("10.0.0.1:8091:123456",), "XID_MALFORMED"),
        (("",), "XID_MALFORMED"),
        (("x" * 500,), "XID_MALFORMED"),
        ((XID, str(Xid("default", 7, 2))), "XID_MALFORMED"),
    ],
)
def test_nonsense_is_refused(xids: tuple[str, ...], code: str) -> None:
    with pytest.raises(TxcoordError) as caught:
        arrive(Admission(CLIENT), *xids)
    assert caught.value.code == code


def test_an_operation_that_needs_a_transaction_says_so() -> None:
    with pytest.raises(TxcoordError) as caught:
        arrive(Admission(CLIENT, required=True))
    assert caught.value.code == "NO_TRANSACTION"


def test_what_is_no_network_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="write networks"):
        Admission(CLIENT, ["stock.internal"])


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("1500", 1.5), ("0", 0.0), ("9" * 12, LONGEST), ("", math.inf), ("-5", math.inf), ("9" * 99, math.inf), ("٣", math.inf)],
)
def test_the_callers_deadline_comes_along(told: str, seconds: float) -> None:
    transaction = Admission(CLIENT).transaction([XID], told, "", None)
    assert transaction is not None
    assert transaction.deadline - time.monotonic() == pytest.approx(seconds, abs=0.5)


def test_an_isolation_that_is_not_known_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="serializable"):
        Admission(CLIENT).transaction([XID], "", "", None, "snapshot")


# ---------------------------------------------------------------- on the way out


def test_headers_go_out_and_come_in() -> None:
    assert current_headers() == {}
    with entered(CLIENT.joined_transaction(XID, 10.0)):
        headers = current_headers()
    assert headers["txcoord-xid"] == XID
    assert 9_000 < int(headers["txcoord-timeout-ms"]) <= 10_000
    with joined({name.title(): value for name, value in headers.items()}, client=CLIENT) as transaction:
        assert transaction is not None
        assert transaction.known_xid == XID
        assert current_headers()["txcoord-xid"] == XID
    with joined({"txcoord-xid": XID}, client=CLIENT):
        assert current_headers() == {"txcoord-xid": XID}, "who is called asks the coordinator"
    with joined({}, client=CLIENT) as nothing:
        assert nothing is None


def test_nothing_goes_out_for_a_transaction_that_is_over() -> None:
    late = CLIENT.joined_transaction(XID, -1.0)
    with entered(late), pytest.raises(DeadlinePassedError):
        current_headers()
    with CLIENT.global_transaction() as ended:
        pass
    with entered(ended), pytest.raises(TransactionEndedError, match="suspend"):
        current_headers()


def test_a_call_without_an_answer_makes_commit_impossible() -> None:
    transaction = CLIENT.joined_transaction(XID)
    with entered(transaction):
        call = OutgoingCall("POST http://stock/reservations")
        call.headers()
    call.unanswered(TimeoutError("30 s"))
    assert transaction.rollback_only.startswith("POST http://stock/reservations got no answer")
    OutgoingCall("outside any transaction").unanswered(TimeoutError())


@pytest.mark.parametrize(
    ("of_transaction", "of_block", "told"),
    [
        ("", "", ""),
        ("serializable", "", "serializable"),
        ("serializable", "read_committed", "read_committed"),
        ("", "read_committed", "read_committed"),
        ("read_uncommitted", "", ""),
    ],
)
def test_the_callers_isolation_comes_along(of_transaction: str, of_block: str, told: str) -> None:
    transaction = CLIENT.joined_transaction(XID, 10.0)
    transaction.isolation = of_transaction
    with entered(transaction), at_level(of_block):
        headers = current_headers()
    assert headers.get("txcoord-isolation", "") == told
    with joined(headers, client=CLIENT) as inner:
        assert inner is not None
        assert inner.isolation == told
