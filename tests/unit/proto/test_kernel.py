"""The shared kernel: XIDs, errors, states."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from txcoord_proto import errors, status
from txcoord_proto.errors import MalformedXidError, TxcoordError, from_wire, known_codes
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_proto.xid import MAX_LENGTH, Xid, epoch_prefix, mint

GROUPS = st.from_regex(r"[A-Za-z0-9_-]{1,32}", fullmatch=True)


@given(GROUPS, st.integers(1, 36**9 - 1), st.integers(1, 36**8 - 1))
def test_an_xid_is_read_as_it_was_written(group: str, epoch: int, sequence: int) -> None:
    xid = Xid(group, epoch, sequence)
    text = str(xid)
    assert Xid.parse(text) == xid
    assert len(text.encode()) <= MAX_LENGTH
    assert ":" not in text
    assert text == mint(epoch_prefix(group, epoch), sequence)


@given(GROUPS, st.integers(1, 36**9 - 1), st.lists(st.integers(1, 36**8 - 1), min_size=2))
def test_xids_of_an_epoch_sort_as_they_were_minted(group: str, epoch: int, sequences: list[int]) -> None:
    assert sorted(str(Xid(group, epoch, s)) for s in sequences) == [str(Xid(group, epoch, s)) for s in sorted(sequences)]


@given(st.text())
def test_anything_else_is_refused_by_name(text: str) -> None:
    if text.count(".") != 2 or not text.isascii():
        with pytest.raises(MalformedXidError):
            Xid.parse(text)


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c.d", "a:b:c", "a.B.1", "ä.1.1", "a.1.1\n", "a" * 33 + ".1.1"])
def test_malformed_xids(text: str) -> None:
    with pytest.raises(MalformedXidError, match="is not an XID"):
        Xid.parse(text)


@pytest.mark.parametrize("kind", list(known_codes().values()), ids=lambda k: k.code)
def test_errors_survive_pickling_and_the_wire(kind: type[TxcoordError]) -> None:
    error = kind("what happened and what to do", {"holder": "x"})
    for copy in (pickle.loads(pickle.dumps(error)), from_wire(error.code, error.message, error.details)):
        assert type(copy) is kind
        assert (copy.message, copy.details, copy.code, copy.retryable) == (
            error.message,
            error.details,
            kind.code,
            kind.retryable,
        )


def test_an_error_code_of_a_newer_version_is_kept_in_the_text() -> None:
    error = from_wire("FROM_THE_FUTURE", "something", {})
    assert type(error) is TxcoordError
    assert "FROM_THE_FUTURE" in str(error)


def test_a_code_belongs_to_one_error() -> None:
    with pytest.raises(TypeError, match="takes the code"):
        type("Second", (TxcoordError,), {"code": errors.LockConflictError.code, "__qualname__": "Second"})


@pytest.mark.parametrize("kind", ["GlobalStatus", "BranchType", "Settlement"])
def test_the_wire_knows_exactly_the_names_of_the_kernel(kind: str) -> None:
    on_the_wire = [name for name in pb.DESCRIPTOR.enum_types_by_name[kind].values_by_name if not name.endswith("UNSPECIFIED")]
    assert set(on_the_wire) == {str(member) for member in getattr(status, kind)}


def test_every_state_is_described() -> None:
    source = status.__file__
    with open(source) as file:
        text = file.read()
    for kind in (status.GlobalStatus, status.BranchStatus, status.BranchType, status.Reason, status.Decision):
        for member in kind:
            after = text.split(f'    {member.name} = "{member.value}"\n', 1)[1]
            assert after.startswith('    """'), f"{kind.__name__}.{member.name} has no docstring"
