"""What a store says that was restored to an earlier moment, as the page on production warns."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from txcoord_proto.errors import UnknownEpochError, UnknownXidError
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.testing import CoordinatorProcess

from tests.integration.server.stub import Stub


def committed(coordinator: CoordinatorProcess) -> str:
    with Stub(coordinator.address) as stub:
        xid = stub.begin()
        assert stub.commit(xid).status == pb.COMMITTED
    return xid


def test_what_was_decided_after_the_backup(tmp_path: Path) -> None:
    store, backup = tmp_path / "store.db", tmp_path / "backup.db"
    with CoordinatorProcess(f"sqlite:///{store}") as coordinator:
        before = committed(coordinator)
    with CoordinatorProcess(f"sqlite:///{store}") as coordinator:
        same_leader_before = committed(coordinator)
        coordinator.kill()
        for ending in ("", "-wal"):
            shutil.copy(f"{store}{ending}", f"{backup}{ending}")
        coordinator.start()
        later_leader = committed(coordinator)
    with CoordinatorProcess(f"sqlite:///{backup}") as coordinator, Stub(coordinator.address) as stub:
        for xid in (before, same_leader_before):
            assert stub.status(xid).decision == "COMMIT"
        with pytest.raises(UnknownEpochError):
            stub.status(later_leader)
        group, epoch, sequence = same_leader_before.split(".")
        with pytest.raises(UnknownXidError):  # by then its leader may have committed it
            stub.status(f"{group}.{epoch}.{int(sequence, 36) + 1:08d}")
