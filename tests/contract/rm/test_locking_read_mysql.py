"""SELECT ... FOR UPDATE and its kin on MariaDB: refused inside global transactions, since no global lock would be taken."""

from __future__ import annotations

import pytest
from txcoord_proto.errors import UnsupportedSqlError

from tests.contract.rm.maria import Maria


@pytest.mark.parametrize("how", ["FOR UPDATE", "LOCK IN SHARE MODE"])
def test_a_read_that_locks_is_refused(maria: Maria, how: str) -> None:
    with pytest.raises(UnsupportedSqlError, match="global locks of a locking read are not taken here"):
        maria.run(f"SELECT bal FROM acct WHERE id = 1 {how}")
