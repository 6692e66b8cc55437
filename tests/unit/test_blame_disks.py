"""Waits for a disk: who used it, or that it was slow itself."""

from __future__ import annotations

from datetime import timedelta

import pytest
from blame_cases import (
    CLIENT,
    HOG,
    IO_WAIT,
    NFSD,
    OTHER,
    SCHEDULE,
    START,
    named,
    processes,
    served,
    server,
    us,
    wait,
)

from tracer.blame import analyse
from tracer.model import (
    DiskUse,
    JournalUse,
    Probe,
    Process,
    Sample,
    Syncs,
)


class TestDisk:
    user = Process(HOG, comm="scand", exe="/opt/scan/scand")

    def analysis(self, *uses, stack=IO_WAIT, disk="vdb", **values):
        ops = [served(10, 20, wait(10, 20, stack), disk=disk)]
        values |= {"processes": processes(self.user), "listeners": (), "disk_use": uses}
        return analyse([server(ops, **values)])

    def use(self, begin=10, end=20, busy=8, **changes):
        values = {"process": HOG, "disk": "vdb", "requests": 900}
        values |= {"begin_mono_us": us(begin), "end_mono_us": us(end), "busy_us": us(busy)}
        return DiskUse(**(values | changes))

    def test_whom_the_disk_worked_for_is_named_with_that_part(self):
        verdict = self.analysis(self.use()).verdict
        (first,) = verdict.culprits
        assert (first.culprit.name, first.cause) == ("scand", "disk")
        assert first.share == pytest.approx(0.8)
        assert first.direct_us == first.stall_us == us(8)
        chain = [(item.link.name, item.link.cause) for item in first.chain]
        assert chain == [("vdb", "disk"), ("scand", "disk")]
        assert "vdb worked 8 s for it, on 900 requests" in first.evidence
        assert "the disk worked for it" in verdict.summary

    def test_the_journal_waits_for_the_disk(self):
        stack = (*SCHEDULE, "jbd2_log_wait_commit", "ext4_sync_file", "nfsd_commit")
        assert named(self.analysis(self.use(), stack=stack)) == [("process", "scand", "disk")]

    @pytest.mark.parametrize(("while_quick", "share"), [(50_000, 0.9), (500_000, 0.2)])
    def test_a_disk_that_moves_far_more_works_for_whom_it_moves_that(self, while_quick, share):
        figures = {"await_ms": 2.0, "queue_length": 0.2, "read_bytes_per_s": while_quick}
        looks = [
            Sample(START + timedelta(seconds=9), "disk", "vdb", metric, value)
            for metric, value in figures.items()
        ]
        ours = self.use(busy=2, moved_bytes=9_000_000)
        nfsds = self.use(process=None, client=CLIENT, moved_bytes=1_000_000)
        offset = round(START.timestamp() * 1e6)
        (first,) = self.analysis(
            ours, nfsds, samples=looks, wall_minus_mono_us=offset
        ).verdict.culprits
        assert (first.culprit.name, first.share) == ("scand", pytest.approx(share))

    @pytest.mark.parametrize("change", [{"disk": "vda"}, {"begin": 20, "end": 30}])
    def test_of_another_disk_or_time_nobody_is_named(self, change):
        assert named(self.analysis(self.use(**change))) == []

    def test_where_the_disk_is_not_known_nobody_is_named(self):
        assert named(self.analysis(self.use(), disk=None)) == []

    def test_little_use_is_not_named(self):
        assert named(self.analysis(self.use(busy=0.4))) == []


class TestSlowDisk:
    user = Process(HOG, comm="scand", exe="/opt/scan/scand")
    thread = Process(OTHER, comm="kworker/u8:1", kthread=True)
    offset = round(START.timestamp() * 1e6)
    samples = (
        Sample(START + timedelta(seconds=20), "disk", "dm-0", "busy_percent", 96.0),
        Sample(START + timedelta(seconds=20), "disk", "dm-0", "await_ms", 2400.0),
    )

    stack = (*SCHEDULE, "jbd2_log_wait_commit", "ext4_sync_file", "nfsd_commit")

    def analysis(self, *uses, more=(), **values):
        where = {"mount": "/srv", "device": "dm-0", "disk": values.pop("disk", "vdb")}
        ops = [served(10, 20, wait(10, 20, self.stack), **where), *more]
        known = {"processes": processes(self.user, self.thread), "samples": self.samples}
        known |= {"listeners": (), "disk_use": uses, "wall_minus_mono_us": self.offset}
        return analyse([server(ops, **(known | values))])

    def use(self, process, busy):
        return DiskUse(process, "vdb", us(10), us(20), 900, us(busy))

    def test_is_named_if_it_had_nobody_else(self):
        verdict = self.analysis().verdict
        (first,) = verdict.culprits
        assert (first.culprit.kind, first.culprit.name, first.cause) == ("device", "dm-0", "disk")
        assert first.share == 1
        assert first.direct_us == first.stall_us == us(10)
        assert [item.link.name for item in first.chain] == ["dm-0"]
        assert "requests took 2.4 s on average at worst, 96 % busy" in first.evidence
        assert verdict.summary.startswith("The disk dm-0 on server caused 100 %")
        assert "it was slow itself" in verdict.summary

    def test_says_whose_requests_the_threads_were_at(self):
        other = served(10, 13, xid=9, peer="10.9.0.3")
        (first,) = self.analysis(more=[other]).verdict.culprits
        assert (
            "nfsd's threads were at slow requests of 10.9.0.2 77 %, 10.9.0.3 23 % of that time"
            in first.evidence
        )

    def test_is_not_named_if_others_use_it_too(self):
        assert named(self.analysis(self.use(OTHER, 5))) == []
        assert named(self.analysis(self.use(None, 5))) == []
        assert named(self.analysis(self.use(HOG, 5))) == [("process", "scand", "disk")]

    def test_is_not_named_if_others_have_its_journal_committed(self):
        asked = [Syncs(HOG, "/srv", us(10), us(20), 1)]
        waits = [served(10, 20, wait(10, 20, self.stack, count=4))]
        assert named(self.analysis(syncs=asked, more=waits)) == []

    def test_of_a_suspended_volume_nobody_has_anything(self):
        looks = [
            Sample(START + timedelta(seconds=at), "disk", "dm-0", metric, value)
            for at in range(9, 22)
            for metric, value in (("busy_percent", 0), ("suspended", 1))[: 2 if at < 16 else 1]
        ]
        verdict = self.analysis(self.use(HOG, 4), samples=looks).verdict
        assert [one.culprit.name for one in verdict.culprits] == ["dm-0", "scand"]
        first, second = verdict.culprits
        assert first.share == pytest.approx(6 / 11)
        assert second.share == pytest.approx(0.4 * 5 / 11)
        assert "was suspended (dmsetup) when it was looked at, 7 times" in first.evidence

    def fill(self, process, blocks, begin=10, end=20):
        return JournalUse(process, "dm-0", us(begin), us(end), 5, blocks)

    def test_who_filled_its_journal_is_named_instead(self):
        fills = [self.fill(HOG, 800), self.fill(NFSD, 200)]
        rows = processes(self.user, self.thread, Process(NFSD, comm="nfsd", kthread=True))
        verdict = self.analysis(journal_use=fills, processes=rows).verdict
        (first,) = verdict.culprits
        assert (first.culprit.name, first.cause) == ("scand", "journal")
        assert first.share == pytest.approx(0.8)
        assert [item.link.name for item in first.chain] == ["journal of dm-0", "scand"]
        assert "filled 800 blocks of the journal of dm-0, in 5 changes" in first.evidence

    def test_what_all_processes_of_a_program_filled_is_against_it(self):
        fills = [self.fill(HOG, 500), self.fill(OTHER, 300), self.fill(NFSD, 200)]
        both = (Process(key, comm="scand", exe="/opt/scan/scand") for key in (HOG, OTHER))
        rows = processes(*both, Process(NFSD, comm="nfsd", kthread=True))
        (first,) = self.analysis(journal_use=fills, processes=rows).verdict.culprits
        assert first.share == pytest.approx(0.8)
        assert "filled 800 blocks of the journal of dm-0, in 10 changes" in first.evidence

    def test_who_filled_it_and_had_the_disk_work_is_named_once(self):
        fills = [self.fill(HOG, 800), self.fill(NFSD, 200)]
        rows = processes(self.user, self.thread, Process(NFSD, comm="nfsd", kthread=True))
        both = self.analysis(self.use(HOG, 2), journal_use=fills, processes=rows)
        (first,) = both.verdict.culprits
        assert (first.cause, first.operations) == ("journal", 1)
        assert first.share == pytest.approx(0.2 + 0.8 * 0.8)
        assert "vdb worked 2 s for it, on 900 requests" in first.evidence
        assert both.causes["disk"] == us(2)

    def test_a_worker_of_the_kernel_may_write_it(self):
        fills = [self.fill(HOG, 800), self.fill(NFSD, 200)]
        worker = Process(OTHER, comm="kworker/u4:1", kthread=True)
        rows = processes(self.user, worker, Process(NFSD, comm="nfsd", kthread=True))
        verdict = self.analysis(self.use(OTHER, 8), journal_use=fills, processes=rows).verdict
        (first,) = verdict.culprits
        assert (first.culprit.name, first.cause) == ("scand", "journal")
        assert first.share == pytest.approx(0.8)

    @pytest.mark.parametrize(
        "fills",
        [
            pytest.param([(HOG, 200, 10, 20), (NFSD, 800, 10, 20)], id="most is nfsd's"),
            pytest.param([(OTHER, 800, 10, 20), (NFSD, 200, 10, 20)], id="kernel thread's"),
        ],
    )
    def test_nobody_is_named_if_not_most_of_its_journal_is_a_processes(self, fills):
        rows = processes(self.user, self.thread, Process(NFSD, comm="nfsd", kthread=True))
        uses = [self.fill(*one) for one in fills]
        assert named(self.analysis(journal_use=uses, processes=rows)) == []

    def test_a_few_blocks_of_its_journal_keep_no_disk_busy(self):
        fills = [self.fill(HOG, 8), self.fill(NFSD, 2)]
        rows = processes(self.user, self.thread, Process(NFSD, comm="nfsd", kthread=True))
        verdict = self.analysis(journal_use=fills, processes=rows).verdict
        assert [one.culprit.name for one in verdict.culprits] == ["dm-0"]

    def test_what_was_filled_long_before_is_committed_by_now(self):
        rows = processes(self.user, self.thread, Process(NFSD, comm="nfsd", kthread=True))
        before = [self.fill(HOG, 800, -10, 0)]
        verdict = self.analysis(journal_use=before, processes=rows).verdict
        assert [one.culprit.name for one in verdict.culprits] == ["dm-0"]

    def test_is_named_if_others_use_it_little(self):
        verdict = self.analysis(self.use(HOG, 0.8)).verdict
        assert [one.culprit.name for one in verdict.culprits] == ["dm-0", "scand"]

    def test_is_not_named_if_it_is_not_known_who_uses_it(self):
        assert named(self.analysis(disk=None)) == []
        assert named(self.analysis(losses={"uses_full": 1})) == []
        lacking = Probe("on_block_rq_complete", "", False, None, "no such tracepoint", None)
        assert named(self.analysis(probes=[lacking])) == []

    def test_is_not_named_if_its_figures_are_good(self):
        assert named(self.analysis(samples=())) == []
