"""Which thread writes a group commit."""

from __future__ import annotations

import time

from txcoord_server.store.disk import QUICK, SMALL, Disk


def commit(disk: Disk, waits: float) -> None:
    with disk.measured():
        time.sleep(waits)


def test_a_quick_disk_keeps_commits_in_the_engines_thread() -> None:
    disk = Disk()
    for _ in range(50):
        assert disk.suits(1_000)
        with disk.measured():
            sum(range(1_000))  # computing is no waiting


def test_a_slow_disk_gets_a_thread_and_is_tried_again() -> None:
    disk = Disk()
    for _ in range(8):
        commit(disk, 0.02)
    assert not disk.suits(1_000)
    assert disk.suits(SMALL - 1), "nothing else is to be done meanwhile"
    others = 0
    while not disk.suits(1_000):
        others += 1
    assert 50 < others < 500


def test_one_slow_commit_among_many_changes_nothing() -> None:
    disk = Disk()
    commit(disk, QUICK * 4)
    assert disk.suits(1_000)
