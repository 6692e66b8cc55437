"""The verdict, cause by cause: who is named for a wait of each kind, and who is not."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from blame_cases import (
    AGENT,
    CLIENT,
    IO_WAIT,
    QAXSAFED,
    REDIS,
    SCHEDULE,
    SERVER,
    START,
    call,
    client,
    held,
    listener,
    named,
    processes,
    quiet_samples,
    rpc,
    served,
    server,
    us,
    wait,
)

from tracer.blame import analyse
from tracer.model import (
    Count,
    DiskUse,
    Event,
    Holder,
    JournalUse,
    Probe,
    Process,
    ProcessKey,
    Sample,
    Syncs,
)

OTHER = ProcessKey(500, 9_000_000)
HOG = ProcessKey(600, 9_500_000)
NFSD = ProcessKey(2, 100_000)


def starved(first, last, by=HOG, **changes):
    return wait(first, last, (), kind="runnable", waker=by, **changes)


class TestCpu:
    rows = server().processes | processes(
        Process(HOG, comm="scand", exe="/opt/scand"),
        Process(OTHER, comm="kworker/0:1", kthread=True),
    )

    def test_who_had_the_cpu_is_named(self):
        op = served(10, 12, starved(10, 11.9))
        analysis = analyse([server([op], processes=self.rows, listeners=())])
        assert named(analysis) == [("process", "scand", "cpu")]
        assert analysis.verdict.culprits[0].direct_us == us(1.9)
        assert "it had the CPUs (cpu)" in analysis.verdict.summary

    def test_the_kernels_own_threads_are_not(self):
        op = served(10, 12, starved(10, 11.9, OTHER))
        analysis = analyse([server([op], processes=self.rows, listeners=())])
        assert analysis.verdict.clear
        assert analysis.causes["cpu"] == us(1.9)

    @pytest.mark.parametrize(
        ("by", "names"),
        [
            pytest.param(REDIS, [], id="its own threads"),
            pytest.param(OTHER, [], id="another worker"),
            pytest.param(HOG, [("process", "scand", "cpu")], id="somebody else"),
        ],
    )
    def test_a_program_that_takes_the_cpu_from_itself_is_the_load(self, by, names):
        rows = self.rows | processes(
            *(Process(key, comm="redis", exe="/usr/bin/redis") for key in (REDIS, OTHER))
        )
        op = call(10, 12, starved(10, 11.9, by))
        analysis = analyse([client([op], processes=rows)])
        assert named(analysis) == names
        assert analysis.causes["cpu"] == us(1.9)

    def test_also_while_the_request_was_queued_for_a_thread_without_cpu(self):
        op = served(10, 12, starved(9.99, 11.8), queue=1.8)
        analysis = analyse([server([op], processes=self.rows, listeners=())])
        assert named(analysis) == [("process", "scand", "cpu")]
        assert analysis.causes["cpu"] == pytest.approx(us(1.8), abs=10)
        assert "unknown" not in analysis.causes

    def test_a_wait_before_the_request_came_is_not_the_operations(self):
        op = served(10, 12, starved(5, 9.9), queue=0)
        analysis = analyse([server([op], processes=self.rows, listeners=())])
        assert set(analysis.causes) == {"running"}

    def test_a_little_of_it_in_every_operation_is_nobodys_doing(self):
        ops = [served(10 + i, 10.11 + i, starved(10 + i, 10.04 + i)) for i in range(20)]
        assert analyse([server(ops, processes=self.rows, listeners=())]).verdict.clear


HOOKED = ("hook_open [agent]", "do_dentry_open", "vfs_open", "nfsd4_open")
ANSWERED = ("try_to_wake_up", "complete", "agent_write [agent]", "vfs_write", "ksys_write")


class TestForeignCode:
    rows = server().processes | processes(Process(HOG, comm="agentd", exe="/opt/agentd"))

    def named_for(self, *waits):
        analysis = analyse([server([served(10, 12, *waits)], processes=self.rows, listeners=())])
        return analysis, named(analysis)

    def test_a_module_that_sleeps(self):
        analysis, names = self.named_for(wait(10, 11.9, (*SCHEDULE, "msleep", *HOOKED)))
        assert names == [("module", "agent", "module")]
        assert "The kernel module agent on server" in analysis.verdict.summary

    def test_who_answers_a_module_stands_for_it(self):
        asked = wait(
            10,
            11.9,
            (*SCHEDULE, "wait_for_completion", *HOOKED),
            waker=HOG,
            waker_stack=ANSWERED,
        )
        analysis, names = self.named_for(asked)
        assert names == [("process", "agentd", "module")]
        chain = analysis.verdict.culprits[0].chain
        assert [one.link.name for one in chain] == ["agent", "agentd"]

    @pytest.mark.parametrize(
        "waker_stack",
        [
            ("try_to_wake_up", "complete", "other_write [other]"),
            ("try_to_wake_up", "agent_tick [agent]", "__do_softirq", "asm_common_interrupt"),
        ],
    )
    def test_who_woke_its_thread_otherwise_does_not(self, waker_stack):
        stack = (*SCHEDULE, "wait_for_completion", *HOOKED)
        woken = wait(10, 11.9, stack, waker=HOG, waker_stack=waker_stack)
        assert self.named_for(woken)[1] == [("module", "agent", "module")]

    def test_what_the_function_behind_it_waits_for_is_no_modules_doing(self):
        analysis, names = self.named_for(wait(10, 11.9, (*IO_WAIT, *HOOKED)))
        assert names == []
        assert analysis.causes["disk"] == us(1.9)

    @pytest.mark.parametrize(
        ("owner", "culprit", "said"),
        [
            ("bpf burn_opens 41", ("bpf", "burn_opens", "bpf"), "The BPF program burn_opens"),
            ("module agent", ("module", "agent", "module"), "The kernel module agent"),
        ],
    )
    def test_whose_code_had_the_cpu(self, owner, culprit, said):
        ran = wait(10, 11.9, HOOKED[1:], kind="running", owner=owner, count=400)
        analysis, names = self.named_for(ran)
        assert names == [culprit]
        assert analysis.verdict.summary.startswith(said)
        assert "ran for 1.9 s" in analysis.verdict.culprits[0].evidence[0]

    def test_what_interrupts_took_is_nobodys(self):
        ran = wait(10, 11.9, ("common_interrupt",), kind="running", owner="irq softirq")
        analysis, names = self.named_for(ran)
        assert names == []
        assert analysis.causes["irq"] == us(1.9)

    def test_a_little_of_each_operation_is_no_stall_of_its(self):
        ran = wait(10, 10.08, HOOKED[1:], kind="running", owner="module driver")
        analysis, names = self.named_for(ran)
        assert names == []
        assert analysis.causes["module"] == us(0.08)

    def test_a_programs_number_and_holder_are_told(self):
        ran = wait(10, 11.9, HOOKED[1:], kind="running", owner="bpf burn_opens 41")
        holders = [Holder(HOG, "program", "41"), Holder(OTHER, "program", "42")]
        ops = [served(10, 12, ran)]
        analysis = analyse([server(ops, processes=self.rows, listeners=(), holders=holders)])
        first, *others = analysis.verdict.culprits[0].evidence
        assert first.startswith("program 41: ran for 1.9 s")
        assert others == ["program 41 is held by agentd (pid 600)"]

    @pytest.mark.parametrize("owner", ["bpf", "bpf ", "module", "", "bpf \x1b[31m x y"])
    def test_an_owner_that_is_none_harms_nothing(self, owner):
        analysis, _ = self.named_for(wait(10, 11.9, (), kind="running", owner=owner))
        assert sum(analysis.causes.values()) == us(2)

    def test_code_of_an_unknown_owner_is_the_threads_own(self):
        ran = wait(10, 11.9, HOOKED[1:], kind="running", owner=None)
        analysis, names = self.named_for(ran)
        assert names == []
        assert set(analysis.causes) == {"running"}


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


class TestDisk:
    user = Process(HOG, comm="scand", exe="/opt/scan/scand")

    def analysis(self, *uses, stack=IO_WAIT, disk="vdb"):
        ops = [served(10, 20, wait(10, 20, stack), disk=disk)]
        known = processes(self.user)
        return analyse([server(ops, processes=known, listeners=(), disk_use=uses)])

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

    def test_who_filled_it_and_had_the_disk_work_is_named_once(self):
        fills = [self.fill(HOG, 800), self.fill(NFSD, 200)]
        rows = processes(self.user, self.thread, Process(NFSD, comm="nfsd", kthread=True))
        both = self.analysis(self.use(HOG, 2), journal_use=fills, processes=rows)
        (first,) = both.verdict.culprits
        assert (first.cause, first.operations) == ("journal", 1)
        assert first.share == pytest.approx(0.2 + 0.8 * 0.8)
        assert "vdb worked 2 s for it, on 900 requests" in first.evidence
        assert both.causes["disk"] == us(2)

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


class TestUpcall:
    stack = (*SCHEDULE, "cache_wait_req.isra.0", "cache_check", "exp_find_key", "rqst_exp_find")
    rows = processes(
        Process(OTHER, comm="rpc.mountd", exe="/usr/sbin/rpc.mountd", state="T"),
        Process(HOG, comm="rpc.idmapd", exe="/usr/sbin/rpc.idmapd"),
    )

    def test_the_daemon_that_holds_the_caches_channel_is_named(self):
        holders = (
            Holder(OTHER, "channel", "nfsd.export"),
            Holder(OTHER, "channel", "nfsd.fh"),
            Holder(HOG, "channel", "nfs4.idtoname"),
        )
        ops = [served(10, 15, wait(10, 15, self.stack))]
        analysis = analyse([server(ops, processes=self.rows, listeners=(), holders=holders)])
        assert named(analysis) == [("process", "rpc.mountd", "upcall")]
        assert "process is stopped (state T)" in analysis.verdict.culprits[0].evidence

    def test_one_that_answers_soon_is_not_for_that_something_else_is_slow(self):
        holders = (Holder(OTHER, "channel", "nfsd.export"),)
        for answered, found in ((10.04, []), (10.06, [("process", "rpc.mountd", "upcall")])):
            ops = [served(10, 10.12, wait(10, answered, self.stack))]
            known = {"processes": self.rows, "listeners": (), "holders": holders}
            assert named(analyse([server(ops, **known)])) == found

    @pytest.mark.parametrize(
        ("asks", "channel", "daemon"),
        [
            (
                "schedule_timeout __wait_for_common __cld_pipe_upcall nfsd4_cld_create "
                "nfsd4_reclaim_complete nfsd4_proc_compound",
                "cld",
                "nfsdcld",
            ),
            ("request_wait_answer fuse_simple_request fuse_lookup_name", "fuse", "bindfs"),
        ],
    )
    def test_so_is_who_has_another_channel(self, asks, channel, daemon):
        stack = (*SCHEDULE, *asks.split())
        holders = (Holder(OTHER, "channel", "nfsd.export"), Holder(HOG, "channel", channel))
        rows = processes(Process(HOG, comm=daemon, exe=f"/usr/sbin/{daemon}"))
        ops = [served(10, 15, wait(10, 15, stack))]
        analysis = analyse([server(ops, processes=rows, listeners=(), holders=holders)])
        assert named(analysis) == [("process", daemon, "upcall")]

    def test_a_page_of_such_a_filesystem_is_not_a_disks(self):
        page = (*SCHEDULE, "io_schedule", "folio_wait_bit_common", "filemap_read")
        answers = ("folio_wake_bit", "fuse_readpages_end", "fuse_request_end", "fuse_dev_do_write")
        rows = processes(Process(OTHER, comm="bindfs", exe="/usr/bin/bindfs"))
        ops = [served(10, 15, wait(10, 15, page, waker=OTHER, waker_stack=answers))]
        analysis = analyse([server(ops, processes=rows, listeners=())])
        assert named(analysis) == [("process", "bindfs", "upcall")]

    def test_nobody_is_if_nobody_holds_it(self):
        ops = [served(10, 15, wait(10, 15, self.stack))]
        holders = (Holder(HOG, "channel", "nfs4.idtoname"),)
        analysis = analyse([server(ops, processes=self.rows, listeners=(), holders=holders)])
        assert analysis.verdict.clear
        assert analysis.causes["upcall"] == us(5)

    def test_a_request_put_off_before_recording_waits_for_it_all_the_while(self):
        """No thread has it, and how long it is there only the client knows."""
        asks = ("cache_check", "ip_map_request")
        stuck = {"xid": 5, "in_flight": True, "begin_known": False}
        there = served(50, 60, wait(50, 60, asks, in_flight=True), queue=10, **stuck)
        vfs = call(3, 20, in_flight=True)
        under = rpc(3, 20, xid=5, parent_id=vfs.op_id, in_flight=True)
        holders = (Holder(OTHER, "channel", "auth.unix.ip"),)
        known = {"processes": self.rows, "listeners": (), "holders": holders}
        analysis = analyse([server([there], **known), client([vfs, under])])
        assert named(analysis) == [("process", "rpc.mountd", "upcall")]
        assert analysis.causes["upcall"] == pytest.approx(us(17), abs=us(0.01))


def four_seconds_away(rows, *, on_client=(), on_server=(), holders=()):
    """Return captures of an RPC that the server served in a moment."""
    vfs = call(10, 14)
    under = rpc(10, 14, xid=5, parent_id=vfs.op_id)
    there = served(50, 50.001, xid=5)
    # Another RPC tells the clocks.
    tick, tock = rpc(9, 9.001, xid=6), served(49, 49.001, xid=6)
    return [
        server([there, tock, *on_server], processes=rows, listeners=(), holders=holders),
        client([vfs, under, tick, *on_client], processes=rows),
    ]


class TestUnanswered:
    """An RPC hangs that was sent before recording, and the server has not got it."""

    def analysis(self, op="OPEN", **of_server):
        late = served(60, 60.2, xid=8)
        there, here = four_seconds_away({}, on_server=[late, *of_server.pop("ops", ())])
        vfs = call(2, 20, in_flight=True, begin_known=False)
        stuck = rpc(2, 20, xid=7, op=op, parent_id=vfs.op_id, in_flight=True)
        here = replace(here, operations=(*here.operations[2:], vfs, stuck))
        return analyse([replace(there, **of_server), here])

    def test_it_is_the_networks(self):
        analysis = self.analysis()
        assert named(analysis) == [("host", SERVER, "network")]
        assert analysis.causes["network"] == pytest.approx(us(18), abs=us(0.01))
        line = "1 RPC got no reply and never came to the server"
        assert line in analysis.verdict.culprits[0].evidence

    @pytest.mark.parametrize("look", ["look_back", "look_packets"])
    def test_not_if_the_server_cannot_show_what_it_had_before(self, look):
        lacking = Probe(look, "", False, None, None, None)
        analysis = self.analysis(probes=(lacking,))
        assert named(analysis) == []
        assert analysis.causes["unknown"] == pytest.approx(us(18), abs=us(0.01))

    def test_not_if_it_was_for_a_daemon(self):
        assert named(self.analysis(op="MOUNT")) == []

    def test_not_if_the_server_lost_operations(self):
        assert named(self.analysis(losses={"ring_full": 1})) == []

    def test_not_if_all_of_its_threads_are_held(self):
        ops = [served(49, 60.2, held(49, 60.2, in_flight=True), in_flight=True) for _ in range(8)]
        analysis = self.analysis(ops=ops, processes=processes(QAXSAFED), listeners=(listener(),))
        assert ("host", SERVER, "network") not in named(analysis)


class TestKernelThreadsWithoutCpu:
    """Packets lie on a host whose own threads get no CPU: that is not the network."""

    rows = processes(Process(HOG, comm="renderd", exe="/opt/renderd"))

    def delay(self, host, side, first, last):
        return served(
            first,
            last,
            starved(first, last),
            host=host,
            side=side,
            layer="kernel",
            op="work",
            queue=None,
        )

    def test_a_reply_that_the_client_did_not_read_for_want_of_cpu(self):
        delay = self.delay("client", "client", 10.1, 13.9)
        analysis = analyse(four_seconds_away(self.rows, on_client=[delay]))
        assert named(analysis)[0] == ("process", "renderd", "cpu")
        assert analysis.causes["cpu"] == pytest.approx(us(3.8), abs=us(0.01))
        assert len(analysis.stalls) == 1

    def test_a_slot_that_nobody_asked_for_for_want_of_cpu(self):
        waiting = rpc(10, 14, xid=9, slot_us=us(3.9), remote_us=us(0.1), process=None)
        delay = self.delay("client", "client", 10, 13.8)
        analysis = analyse([client([waiting, delay], processes=self.rows)])
        assert named(analysis)[0] == ("process", "renderd", "cpu")
        assert analysis.causes["slot"] == pytest.approx(us(0.1), abs=us(0.01))

    def test_packets_that_the_server_did_not_handle(self):
        delay = self.delay("server", "server", 50.5, 53.9)
        analysis = analyse(four_seconds_away(self.rows, on_server=[delay]))
        assert named(analysis)[0] == ("process", "renderd", "cpu")
        assert analysis.verdict.culprits[0].culprit.host == "server"

    def test_without_it_is_time_on_the_wire_and_the_network_only_if_that_shows(self):
        there, here = four_seconds_away(self.rows)
        quiet = analyse([there, here])
        assert named(quiet) == []
        assert quiet.causes["network"] == pytest.approx(us(4), abs=us(0.01))
        late = replace(here, counts=[Count("client", "timeout", None, None, SERVER, 1)])
        assert named(analyse([there, late])) == [("host", SERVER, "network")]


class TestPacketsHeld:
    """A process decides on packets: what that takes is its own, not the network's."""

    rows = processes(
        Process(HOG, comm="netguardd", exe="/opt/netguardd"),
        Process(OTHER, comm="fwd", exe="/opt/fwd"),
    )
    answer = ("nf_queue_entry_free", "nf_reinject", "nfqnl_reinject", "nfqnl_recv_verdict")

    def packet(self, first, last, peer, *, side="server", **changes):
        answered = {"waker": HOG, "waker_stack": self.answer}
        of_wait = {"in_flight": True} if changes.get("in_flight") else answered
        return served(
            first,
            last,
            wait(first, last, (), kind="held", **of_wait),
            **{"host": side, "side": side, "layer": "kernel", "op": "packet", "peer": peer},
            nfs_op=None,
            queue=None,
            **changes,
        )

    def test_who_decides_is_named(self):
        captures = four_seconds_away(self.rows, on_server=[self.packet(50.1, 53.9, CLIENT)])
        analysis = analyse(captures)
        assert named(analysis) == [("process", "netguardd", "packet-filter")]
        assert analysis.causes["packet-filter"] == pytest.approx(us(3.8), abs=us(0.01))
        assert "it held packets of NFS (packet-filter)" in analysis.verdict.summary
        assert len(analysis.stalls) == 1

    def test_packets_held_at_the_same_time_are_held_once(self):
        both = [self.packet(50.1, 52.1, CLIENT), self.packet(50.6, 53.1, CLIENT)]
        (culprit,) = analyse(four_seconds_away(self.rows, on_server=both)).verdict.culprits
        assert culprit.direct_us == us(3)
        line = "held 2 packets of NFS until it decided on them: 3 s in all, the longest 2.5 s"
        assert culprit.evidence[0] == line
        assert not any("nfsd threads" in line for line in culprit.evidence)

    def test_on_a_client_recorded_alone(self):
        packet = self.packet(10.1, 13.9, SERVER, side="client")
        _, here = four_seconds_away(self.rows, on_client=[packet])
        assert named(analyse([here]))[0] == ("process", "netguardd", "packet-filter")

    def test_packets_of_others_held_nothing_of_ours(self):
        packet = self.packet(50.1, 53.9, "10.9.0.77")
        analysis = analyse(four_seconds_away(self.rows, on_server=[packet]))
        assert "packet-filter" not in analysis.causes

    @pytest.mark.parametrize(
        ("owners", "found"),
        [
            ((HOG,), [("process", "netguardd", "packet-filter")]),
            ((HOG, HOG), [("process", "netguardd", "packet-filter")]),
            ((HOG, OTHER), []),
            ((), []),
        ],
    )
    def test_while_it_lies_there_who_has_the_queue(self, owners, found):
        packet = self.packet(50.1, 53.9, CLIENT, in_flight=True)
        holders = [Holder(owner, "queue", str(number)) for number, owner in enumerate(owners)]
        captures = four_seconds_away(self.rows, on_server=[packet], holders=holders)
        assert named(analyse(captures)) == found

    def test_one_of_before_recording_lies_there_since_the_rpc_was_sent(self):
        packet = self.packet(48, 60, CLIENT, in_flight=True, begin_known=False)
        holders = [Holder(HOG, "queue", "5")]
        there, here = four_seconds_away(self.rows, on_server=[packet], holders=holders)
        vfs = call(2, 20, in_flight=True)
        stuck = rpc(2, 20, xid=7, parent_id=vfs.op_id, in_flight=True)
        here = replace(here, operations=(*here.operations[2:], vfs, stuck))
        analysis = analyse([there, here])
        assert named(analysis) == [("process", "netguardd", "packet-filter")]
        assert analysis.causes["packet-filter"] == pytest.approx(us(18), abs=us(0.01))
        assert not any("never came" in one.figures for one in analysis.verdict.cleared)

    def test_what_is_repeated_meanwhile_is_not_the_networks_doing(self):
        packet = self.packet(50.1, 51.9, CLIENT)
        there, here = four_seconds_away(self.rows, on_server=[packet])
        late = replace(here, counts=[Count("client", "timeout", None, None, SERVER, 1)])
        assert named(analyse([there, late])) == [("process", "netguardd", "packet-filter")]


def test_a_cpu_quota_is_a_setting_and_nobody_who_ran_meanwhile():
    app = Process(REDIS, comm="redis-server", cgroup="/app.slice")
    throttled = wait(10, 13, (), kind="throttled")
    op = call(10, 14, throttled, starved(13, 13.1))
    analysis = analyse([client([op], processes=processes(app, *TestCpu.rows.values()))])
    assert named(analysis) == [("setting", "CPU quota of /app.slice", "throttle")]
    assert "The CPU quota of /app.slice on client caused" in analysis.verdict.summary


class TestAskedToWait:
    pause = (*SCHEDULE, "schedule_timeout", "nfs4_delay", "nfs4_handle_exception", "nfs4_do_open")

    def captures(self, status, *recalls):
        vfs = call(10, 14, wait(10, 14, self.pause), op="open", peer=SERVER)
        refused = rpc(10, 10.001, parent_id=vfs.op_id, op="OPEN", status=status)
        counts = tuple(Count("server", "recall", None, None, peer, 1) for peer in recalls)
        return [server(counts=counts, listeners=()), client([vfs, refused])]

    def test_by_a_server_in_its_grace_period(self):
        analysis = analyse(self.captures(-10013))
        assert named(analysis) == [("host", SERVER, "grace")]
        assert "had been restarted" in analysis.verdict.summary

    @pytest.mark.parametrize("restarted", [True, False])
    def test_by_a_server_that_has_forgotten_it(self, restarted):
        recovery = (*SCHEDULE, "nfs_wait_bit_killable", "__wait_on_bit", "nfs4_wait_clnt_recover")
        vfs = call(10, 14, wait(10, 14, recovery), op="open", peer=SERVER)
        refused = rpc(10, 10.001, parent_id=vfs.op_id, op="OPEN", status=-10052)
        text = "NFSD: starting 90-second grace period (net f0000000)"
        log = Event(quiet_samples()[0].ts, "kmsg", "kernel", text, 1)
        there = server(events=(log,) if restarted else (), listeners=())
        analysis = analyse([there, client([vfs, refused])])
        assert analysis.causes["grace" if restarted else "delay"] == us(4)
        assert named(analysis) == ([("host", SERVER, "grace")] if restarted else [])

    def test_because_another_client_holds_a_delegation(self):
        analysis = analyse(self.captures(-10008, "10.9.0.3"))
        assert named(analysis) == [("host", "10.9.0.3", "delegation")]

    @pytest.mark.parametrize(
        ("holders", "recalls", "found"),
        [
            ([REDIS], [], [("process", "smbd", "delay")]),
            # One of them it was, but not which.
            ([REDIS, AGENT], [], []),
            ([REDIS], ["10.9.0.3"], []),
        ],
    )
    def test_because_a_process_of_the_server_keeps_a_lease(self, holders, recalls, found):
        there, here = self.captures(-10008, *recalls)
        smbd = Process(REDIS, comm="smbd", exe="/usr/sbin/smbd")
        known = processes(smbd, Process(AGENT, comm="qaxsafed", exe="/opt/qaxsafed"))
        leases = [Holder(key, "lease") for key in holders]
        analysis = analyse([replace(there, holders=leases, processes=known), here])
        assert named(analysis) == found
        assert analysis.causes["delay"] == us(4)
        assert [one.direct_us for one in analysis.verdict.culprits] == [us(4) for _ in found]

    @pytest.mark.parametrize(
        ("statuses", "cause"),
        [((-10008, -2), "delegation"), ((-10008, -10013), "delay"), ((), "delay")],
    )
    def test_by_what_all_were_put_off_of_which_no_rpc_was_recorded(self, statuses, cause):
        there, here = self.captures(None, "10.9.0.3")
        counts = [Count("client", "status", "OPEN", status, SERVER, 1) for status in statuses]
        analysis = analyse([there, replace(here, counts=counts)])
        assert analysis.causes[cause] == us(4)

    @pytest.mark.parametrize("recalls", [(), ("10.9.0.3", "10.9.0.4")])
    def test_which_client_is_not_guessed(self, recalls):
        analysis = analyse(self.captures(-10008, *recalls))
        assert analysis.verdict.clear
        assert analysis.causes["delay"] == us(4)

    @pytest.mark.parametrize(
        ("status", "found"),
        [
            (-10013, {"grace": 5}),
            (-10008, {"delay": 5}),
            (-528, {"delay": 5}),
            (-10052, {"delay": 5}),
            # One that is sent again at once, and one that is not sent again.
            (-5, {"slot": 5}),
            (None, {"slot": 5}),
        ],
    )
    def test_while_nobody_sleeps_but_the_rpc(self, status, found):
        vfs = call(10, 16)
        again = rpc(10, 16, parent_id=vfs.op_id, slot_us=us(5), remote_us=us(1))
        again = replace(again, status_before=status)
        seconds = found | {"remote": 1}
        analysis = analyse([client([vfs, again])])
        assert analysis.causes == {cause: us(time) for cause, time in seconds.items()}

    def test_for_a_lock_of_nfsv3_by_a_server_that_waits_for_those_of_before(self):
        asleep = (*SCHEDULE, "schedule_timeout", "nlmclnt_call", "nlmclnt_lock", "nlmclnt_proc")
        vfs = call(10, 14, wait(10, 14, asleep), op="lock", peer=SERVER)
        assert named(analyse([client([vfs])])) == [("host", SERVER, "grace")]

    def test_no_longer_than_anyone_is_asked_to(self):
        vfs = call(10, 31)
        again = rpc(10, 31, parent_id=vfs.op_id, slot_us=us(20), remote_us=us(1))
        again = replace(again, status_before=-10008)
        analysis = analyse([client([vfs, again])])
        assert analysis.causes == {"delay": us(15), "slot": us(5), "remote": us(1)}


class TestLockInTheWay:
    pause = (*SCHEDULE, "schedule_timeout", "wait_woken", "nfs4_proc_lock", "do_setlk", "nfs_lock")

    def analysis(self, *conflicts):
        counts = [Count("server", "conflict", None, same, peer, 2) for peer, same in conflicts]
        vfs = call(10, 14, wait(10, 14, self.pause), op="lock", peer=SERVER)
        return analyse([server(counts=counts, listeners=()), client([vfs])])

    @pytest.mark.parametrize(
        "others",
        [
            pytest.param((), id="and no other"),
            pytest.param(((CLIENT, 0),), id="which waits for this one, too"),
            pytest.param((("10.9.0.3", 1),), id="whose processes wait for each other, too"),
        ],
    )
    def test_is_another_clients(self, others):
        verdict = self.analysis(("10.9.0.3", 0), *others).verdict
        (first,) = verdict.culprits
        assert (first.culprit.kind, first.culprit.name, first.cause) == ("host", "10.9.0.3", "lock")
        line = "2 times another client's byte-range lock was refused for one that it had"
        assert line in first.evidence
        assert verdict.summary.startswith("The NFS client 10.9.0.3 caused ")
        assert "it held a lock on a file" in verdict.summary

    def test_of_nfsv3_too_whose_client_asks_its_own_daemons_as_well(self):
        asleep = (*SCHEDULE, "schedule_timeout", "nlmclnt_block", "nlmclnt_proc", "do_setlk")
        vfs = call(10, 14, wait(10, 14, asleep), op="lock")
        rpcs = [
            rpc(10, 10.1, op=op, peer=peer, mount=vfs.mount)
            for op, peer in (("MONITOR", "127.0.0.1"), ("LOCK", SERVER))
        ]
        counts = [Count("server", "conflict", None, 0, "10.9.0.3", 2)]
        analysis = analyse([server(counts=counts, listeners=()), client([vfs, *rpcs])])
        assert named(analysis) == [("host", "10.9.0.3", "lock")]

    @pytest.mark.parametrize(
        "conflicts",
        [
            pytest.param((), id="not seen"),
            pytest.param(((None, 0),), id="a process of the server"),
            pytest.param(((CLIENT, 1),), id="the client's own"),
            pytest.param((("10.9.0.3", 0), (CLIENT, 1)), id="the client's own or another's"),
            pytest.param((("10.9.0.3", 0), ("10.9.0.4", 0)), id="one of two"),
            pytest.param((("10.9.0.3", 0), (None, 0)), id="a client's or a process's"),
        ],
    )
    def test_whose_it_is_is_not_guessed(self, conflicts):
        analysis = self.analysis(*conflicts)
        assert named(analysis) == []
        assert analysis.causes["lock"] == us(4)
