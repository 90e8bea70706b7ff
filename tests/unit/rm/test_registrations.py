"""Lock keys in portions that the coordinator takes."""

from __future__ import annotations

import random

import pytest
from txcoord_rm.at.resource import registrations
from txcoord_server.domain.limits import Limits

_REQUEST = 2 << 20
"""Bytes of the largest request that a client sends."""


@pytest.mark.parametrize("alphabet", ["abc", "aé€😀", "😀"])
@pytest.mark.parametrize("longest", [1, 40, 400])
@pytest.mark.parametrize("count", [0, 1, 1_000, 1_001, 10_000, 10_001, 25_000])
def test_none_is_missing_and_no_portion_is_too_large(count: int, longest: int, alphabet: str) -> None:
    chance = random.Random(count)
    keys = ["".join(chance.choices(alphabet, k=chance.randint(1, longest))) for _ in range(count)]
    portions = list(registrations(keys))
    assert [key for portion in portions for key in portion] == keys
    assert max(map(len, portions)) <= Limits().locks
    assert max(sum(len(key.encode()) + 3 for key in portion) for portion in portions) < _REQUEST
    assert all(portions) or not keys


def test_ten_thousand_short_keys_are_one_request() -> None:
    assert len(list(registrations([f"public.stock(id)=({n})" for n in range(10_000)]))) == 1
