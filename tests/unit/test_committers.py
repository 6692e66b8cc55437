"""How many commits others than nfsd asked for."""

from __future__ import annotations

import pytest
from blame_cases import AGENT, REDIS, SCHEDULE, served, server, us, wait

from tracer.blame.committers import Committers
from tracer.blame.culprits import Suspects
from tracer.model import IntervalWaits, Syncs

COMMIT = (*SCHEDULE, "jbd2_log_wait_commit", "ext4_sync_file", "vfs_fsync_range", "nfsd_commit")


def syncs(count: int, begin: float = 10, process=AGENT, mount: str = "/srv") -> Syncs:
    return Syncs(process, mount, us(begin), us(begin + 1), count)


def committers(*rows: Syncs, waits=(), fast=()) -> Committers:
    capture = server([served(9, 12, *waits)], syncs=rows, interval_waits=fast)
    return Committers(capture, Suspects(capture))


def test_a_part_by_how_often_each_asked() -> None:
    found = committers(syncs(6), syncs(2, process=REDIS), waits=[wait(10, 11, COMMIT, count=2)])
    assert found.others("/srv", us(10), us(11)) == 0.8


def test_faster_operations_of_nfsd_ask_too() -> None:
    fast = IntervalWaits(us(11), "server", "COMMIT", wait(10, 11, COMMIT, count=2))
    assert committers(syncs(6), fast=[fast]).others("/srv", us(10), us(11)) == 0.75


def test_only_what_was_asked_meanwhile() -> None:
    found = committers(syncs(6), waits=[wait(11, 12, COMMIT)])
    assert found.others("/srv", us(10.5), us(11)) == 1
    assert found.others("/srv", us(11), us(12)) == 0


@pytest.mark.parametrize("mount", ["/other", None])
def test_nothing_of_another_filesystem(mount: str | None) -> None:
    assert committers(syncs(6)).others(mount, us(10), us(11)) == 0
    assert committers().others(mount, us(10), us(11)) == 0
