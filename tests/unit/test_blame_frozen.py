"""Waits for a frozen filesystem: who froze it."""

from __future__ import annotations

from blame_cases import (
    HOG,
    OTHER,
    SCHEDULE,
    named,
    processes,
    served,
    server,
    us,
    wait,
)

from tracer.blame import analyse
from tracer.model import (
    Holder,
    Process,
)

FROZEN = (*SCHEDULE, "percpu_rwsem_wait", "__percpu_down_read", "mnt_want_write", "nfsd_create")


class TestFrozen:
    rows = processes(
        Process(OTHER, comm="fsfreeze", exe="fsfreeze"), Process(HOG, comm="thaw", exe="/opt/thaw")
    )

    def named(self, *waits, holders=()):
        ops = [served(10, 20, *waits)]
        return named(
            analyse([server(ops, processes=self.rows, listeners=(), holders=tuple(holders))])
        )

    def test_who_froze_it_is_named_while_it_still_is(self):
        going_on = wait(10, 20, FROZEN, in_flight=True)
        holder = Holder(OTHER, "frozen", since_mono_us=us(9))
        assert self.named(going_on, holders=[holder]) == [("process", "fsfreeze", "frozen")]

    def test_who_froze_it_comes_before_who_thaws_it(self):
        ended = wait(10, 20, FROZEN, waker=HOG, waker_stack=("thaw_super_locked", "thaw_super"))
        assert self.named(ended) == [("process", "thaw", "frozen")]
        holder = Holder(OTHER, "frozen", since_mono_us=us(9), until_mono_us=us(20))
        assert self.named(ended, holders=[holder]) == [("process", "fsfreeze", "frozen")]

    def test_of_two_at_that_time_none_is_named(self):
        going_on = wait(10, 20, FROZEN, in_flight=True)
        holders = [Holder(OTHER, "frozen"), Holder(HOG, "frozen", mount="/other")]
        assert self.named(going_on, holders=holders) == []

    def test_an_earlier_one_is_not_named(self):
        going_on = wait(10, 20, FROZEN, in_flight=True)
        holder = Holder(OTHER, "frozen", since_mono_us=us(1), until_mono_us=us(5))
        assert self.named(going_on, holders=[holder]) == []

    def test_if_nobody_is_known_to_have_frozen_it_the_filesystem_is(self):
        op = served(10, 20, wait(10, 20, FROZEN, in_flight=True), device="vdb")
        analysis = analyse([server([op], processes=self.rows, listeners=())])
        assert named(analysis) == [("device", "vdb", "frozen")]
        assert analysis.verdict.summary.startswith("The filesystem on vdb on server caused 100 %")
        assert "it is frozen (frozen)" in analysis.verdict.summary
