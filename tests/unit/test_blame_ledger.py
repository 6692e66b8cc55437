"""Bills of single operations, and what must hold for any input."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from blame_cases import (
    AGENT,
    CLIENT,
    FANOTIFY,
    GROUP,
    INTERRUPT,
    IO_WAIT,
    LOCK_WAIT,
    QAXSAFED,
    REDIS,
    RPC_WAIT,
    SCHEDULE,
    SERVER,
    START,
    UNLOCK,
    between,
    call,
    calls_made,
    client,
    held,
    listener,
    processes,
    rpc,
    served,
    server,
    us,
    wait,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.blame import analyse
from tracer.blame.charge import RUNNING, UNKNOWN, bill, split
from tracer.blame.intervals import Stretch
from tracer.blame.ledger import Ledger
from tracer.blame.occupancy import Occupancy
from tracer.model import (
    DiskUse,
    IntervalWaits,
    JournalUse,
    LatencyRow,
    Operation,
    Process,
    ProcessKey,
    Sample,
    Wait,
)

NFSD = ProcessKey(190, 2_000_000)
COMMIT_WAIT = (
    *SCHEDULE,
    "jbd2_log_wait_commit",
    "ext4_fsync_journal",
    "ext4_sync_file",
    "nfsd_commit",
)

UPCALL = (*SCHEDULE, "cache_check", "exp_find", "svc_export_parse")


def causes(captures, op):
    """Return ``{cause: seconds}`` of one operation's bill."""
    ledger = Ledger(captures)
    index = next(i for i, capture in enumerate(captures) if op in capture.operations)
    sums: dict[str, float] = {}
    for charge, part in ledger.bill(index, op).items():
        sums[charge.cause] = sums.get(charge.cause, 0) + part / 1e6
    assert sum(sums.values()) == pytest.approx(op.wall_us / 1e6, abs=1e-9)
    return {cause: pytest.approx(seconds, abs=0.001) for cause, seconds in sums.items()}


def test_served_operation_splits_into_waits_and_running():
    op = served(10, 15, held(10, 13), wait(13, 14.5, IO_WAIT))
    assert causes([server([op])], op) == {"fanotify": 3, "disk": 1.5, "running": 0.5}


def test_runnable_time_is_cpu():
    op = served(10, 12, wait(10, 11, IO_WAIT, kind="runnable"))
    assert causes([server([op])], op) == {"cpu": 1, "running": 1}


def test_unseen_arrival_is_not_invented():
    op = served(10, 12, queue=None)
    assert causes([server([op])], op) == {"running": 2}


def test_lost_waits_are_unknown():
    op = served(10, 12, waits_lost_us=us(1))
    assert causes([server([op])], op) == {"unknown": 1, "running": 1}


def test_waits_longer_than_the_operation_are_cut():
    op = served(10, 12, held(10, 13), wait(9, 14, IO_WAIT))
    assert causes([server([op])], op) == {"fanotify": 1, "disk": 1}


class TestQueue:
    def queued(self, threads=8, stuck=8):
        blockers = [served(10, 20, held(10, 20)) for _ in range(stuck)]
        victim = served(12, 20.001, queue=8)
        return server([*blockers, victim], nfsd_threads=threads), victim

    def test_is_charged_to_what_holds_all_threads(self):
        capture, victim = self.queued()
        assert causes([capture], victim) == {"fanotify": 8, "running": 0.001}
        charge = max(Ledger([capture]).bill(0, victim).items(), key=lambda item: item[1])[0]
        assert [(link.name, link.pid, link.cause) for link in charge.chain] == [
            ("nfsd", None, "queue"),
            ("qaxsafed", 412, "fanotify"),
        ]

    def test_a_thread_that_gets_no_cpu_to_take_something_up_is_not_free(self):
        """The ninth was woken for another request and had no CPU: ours waits for it, too."""
        capture, victim = self.queued(threads=9)
        hog = ProcessKey(900, 7_000_000)
        late = served(17, 20.6, wait(13, 20.5, (), kind="runnable", waker=hog), queue=3.5)
        with_late = replace(capture, operations=(*capture.operations, late))
        expected = {"unknown": 1, "fanotify": 7 * 8 / 9, "cpu": 7 / 9, "running": 0.001}
        assert causes([with_late], victim) == pytest.approx(expected)

    def test_waits_for_a_thread_that_was_woken_and_came_too_late(self):
        capture, victim = self.queued(threads=20)
        hog = ProcessKey(900, 7_000_000)
        late = served(13, 20, wait(13, 19, (), kind="runnable", waker=hog), layer="between")
        late = replace(late, op="woken", peer=None)
        with_late = replace(capture, operations=(*capture.operations, late))
        expected = {"unknown": 2, "cpu": 6, "running": 0.001}
        assert causes([with_late], victim) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("peer", "begin", "expected"),
        [
            (CLIENT, 12, {"cpu": 6, "unknown": 2, "running": 0.001}),
            ("10.9.0.9", 12, {"unknown": 8, "running": 0.001}),
            (CLIENT, 13, {"unknown": 8, "running": 0.001}),  # taken up after ours
        ],
    )
    def test_waits_for_the_thread_that_is_to_read_what_is_ahead_of_it(self, peer, begin, expected):
        capture, victim = self.queued(threads=20)
        hog = ProcessKey(900, 7_000_000)
        ahead = served(
            begin, 20.5, wait(begin, 18 + begin - 12, (), kind="runnable", waker=hog), queue=7.9
        )
        ahead = replace(ahead, peer=peer)
        with_ahead = replace(capture, operations=(*capture.operations, ahead))
        assert causes([with_ahead], victim) == pytest.approx(expected)

    def test_is_unknown_while_threads_are_free(self):
        capture, victim = self.queued(threads=9)
        assert causes([capture], victim) == {"unknown": 8, "running": 0.001}

    def test_most_seen_at_once_stands_in_for_an_unknown_thread_count(self):
        capture, victim = self.queued(threads=None)
        assert causes([capture], victim) == {"fanotify": 8, "running": 0.001}

    def test_is_charged_in_proportion(self):
        ops = [served(10, 20, held(10, 20)) for _ in range(6)]
        ops += [served(10, 20, wait(10, 20, IO_WAIT)), served(10, 20)]
        victim = served(12, 20.001, queue=8)
        assert causes([server([*ops, victim])], victim) == {
            "fanotify": 6,
            "disk": 1,
            "threads": 1,
            "running": 0.001,
        }

    def test_a_thread_may_be_held_between_two_requests(self):
        victim = served(10, 14.001, queue=4)
        capture = server([between(9, 14, held(9, 14)), victim], nfsd_threads=1)
        assert causes([capture], victim) == {"fanotify": 4, "running": 0.001}

    def test_a_request_that_was_put_off_holds_no_thread(self):
        first = served(10, 14.001, wait(10, 14, UPCALL), queue=4)
        victim = served(10, 14.001, queue=4)
        capture = server([first, victim], nfsd_threads=1)
        assert causes([capture], victim) == {"unknown": 4, "running": 0.001}

    def test_working_threads_are_a_setting(self):
        victim = served(12, 20.001, queue=8)
        capture = server([*(served(10, 20) for _ in range(8)), victim])
        charge = max(Ledger([capture]).bill(0, victim).items(), key=lambda item: item[1])[0]
        assert charge.cause == "threads"
        assert charge.culprit is not None
        assert (charge.culprit.kind, charge.culprit.name) == ("setting", "nfsd threads")

    def one_after_the_other(self, disk="vdb", took=0.08, stack=IO_WAIT, **changes):
        """One thread, on which each operation waits for a disk for most of its time."""
        begins = [10 + number * took for number in range(20)]
        ops = [
            served(begin, begin + took, wait(begin, begin + took, stack), disk=disk, device="vdb")
            for begin in begins
        ]
        victim = served(10, begins[-1] + took, queue=20 * took - 0.001)
        return server([*ops, victim], nfsd_threads=1, **changes), victim

    def test_threads_that_wait_for_a_disk_one_after_the_other_are_too_few(self):
        capture, victim = self.one_after_the_other()
        assert causes([capture], victim) == {"threads": 1.599, "running": 0.001}

    @pytest.mark.parametrize(
        ("filled_by", "cause"),
        [((), "journal"), ((NFSD,), "threads"), ((NFSD, AGENT), "journal")],
    )
    def test_of_a_journal_it_must_be_known_who_filled_it(self, filled_by, cause):
        uses = tuple(JournalUse(who, "vdb", us(10), us(11.6), 9, 900) for who in filled_by)
        rows = processes(QAXSAFED, Process(NFSD, comm="nfsd", kthread=True))
        capture, victim = self.one_after_the_other(
            stack=COMMIT_WAIT, journal_use=uses, processes=rows
        )
        assert set(causes([capture], victim)) == {cause, "running"}

    @pytest.mark.parametrize(
        "changes",
        [
            # Each is a stall by itself: more threads would wait as long.
            {"took": 0.2},
            # Nobody knows who else was on it.
            {"disk": None},
            # Another was.
            {"disk_use": (DiskUse(AGENT, "vdb", us(10), us(11.6), 90, us(0.4)),)},
        ],
    )
    def test_of_a_disk_that_is_slow_or_works_for_others_more_threads_make_no_other(self, changes):
        capture, victim = self.one_after_the_other(**changes)
        assert set(causes([capture], victim)) == {"disk", "running"}

    def test_fast_operations_count_by_their_sums(self):
        ops = [served(10, 20, held(10, 20)) for _ in range(7)]
        victim = served(12, 20.001, queue=8)
        fast = [
            IntervalWaits(
                us(second),
                "server",
                "READ",
                wait(second - 1, second, IO_WAIT, total_us=us(0.99), count=300),
            )
            for second in range(10, 22)
        ]
        capture = server([*ops, victim], interval_waits=fast)
        assert causes([capture], victim) == {
            "fanotify": 7.0088,
            "disk": 0.9912,
            "running": 0.001,
        }


class TestClient:
    def test_remote_time_is_the_servers_ledger(self):
        there = served(50, 54, held(51, 53), wait(53, 53.5, IO_WAIT), queue=1, xid=7)
        vfs = call(9.9, 14.1)
        under = rpc(9.9, 14.1, xid=7, parent_id=vfs.op_id)
        # One second in the queue of an otherwise idle server stays unknown.
        assert causes([server([there]), client([vfs, under])], vfs) == {
            "fanotify": 2,
            "disk": 0.5,
            "running": 0.5,
            "unknown": 1,
            "network": 0.2,
        }

    def test_without_the_servers_capture_it_is_remote(self):
        vfs = call(10, 14)
        under = rpc(10, 13.9, parent_id=vfs.op_id, remote_us=us(3.5), slot_us=us(0.4))
        capture = client([vfs, under])
        assert causes([capture], vfs) == {"slot": 0.4, "remote": 3.5, "unknown": 0.1}
        named = [c.culprit for c in Ledger([capture]).bill(0, vfs) if c.culprit]
        assert [(one.kind, one.name) for one in named] == [("host", SERVER)]

    def test_phases(self):
        vfs = call(10, 14)
        under = rpc(
            10,
            14,
            parent_id=vfs.op_id,
            slot_us=us(1),
            send_us=us(0.5),
            remote_us=us(1.5),
            wake_us=us(1),
        )
        assert causes([client([vfs, under])], vfs) == {
            "slot": 1,
            "network": 0.5,
            "remote": 1.5,
            "cpu": 1,
        }

    def test_gaps_between_rpcs_are_unknown_and_own_work_is_running(self):
        vfs = call(10, 15, wait(11, 15, RPC_WAIT))
        rpcs = [rpc(11, 12, parent_id=vfs.op_id), rpc(13, 15, parent_id=vfs.op_id)]
        assert causes([client([vfs, *rpcs])], vfs) == {"running": 1, "remote": 3, "unknown": 1}

    def test_parallel_rpcs_are_not_counted_twice(self):
        vfs = call(10, 15)
        rpcs = [rpc(10 + i * 0.1, 15, parent_id=vfs.op_id) for i in range(10)]
        assert causes([client([vfs, *rpcs])], vfs) == {"remote": 5}

    def test_writeback_of_a_kworker_is_the_last_resort(self):
        stack = ("schedule", "io_schedule", "folio_wait_writeback", "nfs_wb_all", "nfs4_file_fsync")
        vfs = call(10, 15, wait(10, 15, stack))
        write = rpc(9, 15, process=None, comm=None)
        assert causes([client([vfs, write])], vfs) == {"remote": 5}
        elsewhere = rpc(9, 15, process=None, comm=None, mount="/mnt/other")
        assert causes([client([vfs, elsewhere])], vfs) == {"unknown": 5}
        reading = call(10, 15)
        assert causes([client([reading, write])], reading) == {"unknown": 5}

    def test_agent_on_the_client_holds_the_open_itself(self):
        vfs = call(10, 15, held(10, 14), wait(14, 15, RPC_WAIT), op="open")
        under = rpc(14, 15, parent_id=vfs.op_id)
        capture = client([vfs, under], listeners=(listener(),), processes=server().processes)
        assert causes([capture], vfs) == {"fanotify": 4, "remote": 1}

    def test_grace_is_told_from_delay(self):
        stack = ("schedule", "schedule_timeout", "nfs4_delay", "nfs4_handle_exception")
        vfs = call(10, 15, wait(10, 15, stack))
        assert causes([client([vfs])], vfs) == {"delay": 5}
        refused = rpc(9.9, 10, parent_id=vfs.op_id, status=-10013)
        assert causes([client([vfs, refused])], vfs) == {"grace": 5}

    def test_request_never_taken_up_is_in_the_servers_queue(self):
        blockers = [
            served(
                50 + i / 10, 60, held(50 + i / 10, 60, in_flight=True), in_flight=True, xid=i + 1
            )
            for i in range(8)
        ]
        openers = [rpc(10 + i / 10, 20, in_flight=True, xid=i + 1) for i in range(8)]
        vfs = call(12, 20, in_flight=True)
        stuck = rpc(12, 20, in_flight=True, xid=99, parent_id=vfs.op_id)
        done = rpc(9, 9.1, xid=77)
        measured = served(49.04, 49.06, xid=77)
        captures = [server([*blockers, measured]), client([*openers, vfs, stuck, done])]
        assert causes(captures, vfs) == {"fanotify": 8}

    def test_request_never_taken_up_by_a_free_server_is_on_the_wire(self):
        done = rpc(9, 9.1, xid=77)
        measured = served(49.04, 49.06, xid=77)
        later = served(61, 61.2, xid=78)
        vfs = call(12, 20, in_flight=True)
        stuck = rpc(12, 20, in_flight=True, xid=99, parent_id=vfs.op_id)
        theirs = [measured, later]
        assert causes([server(theirs), client([done, vfs, stuck])], vfs) == {"network": 8}
        lossy = server(theirs, losses={"ring_full": 3})
        assert causes([lossy, client([done, vfs, stuck])], vfs) == {"unknown": 8}

    @pytest.mark.parametrize(
        ("lost", "repeated", "cause"),
        [(3, 8.0, "network"), (3, 1.0, "unknown"), (30, 8.0, "unknown")],
    )
    def test_where_a_network_is_plainly_at_fault_few_losses_do_not_hide_it(
        self, lost, repeated, cause
    ):
        ts = START + timedelta(seconds=1)
        sent, again = (
            Sample(ts, "tcp", None, metric, value)
            for metric, value in (("out_segs_per_s", 100.0), ("retrans_segs_per_s", repeated))
        )
        served_in_all = [LatencyRow("server", "rpc", "COMPOUND", {40: 100}, 0, 0)]
        theirs = [served(49.04, 49.06, xid=77), served(61, 61.2, xid=78)]
        vfs = call(12, 20)
        under = rpc(12, 20, xid=99, parent_id=vfs.op_id)
        there = server(theirs, losses={"missed_event": lost}, latency=served_in_all)
        here = client([rpc(9, 9.1, xid=77), vfs, under], samples=[sent, again])
        assert causes([there, here], vfs) == {cause: 8}

    def test_call_from_before_recording_is_charged_by_the_end_of_the_capture(self):
        blockers = [
            served(50, 60, held(50, 60, in_flight=True), in_flight=True, begin_known=False)
            for _ in range(8)
        ]
        vfs = call(10, 20, in_flight=True, begin_known=False)
        elsewhere = rpc(5, 5.1, mount=None)
        assert causes([server(blockers), client([vfs])], vfs) == {"unknown": 10}
        assert causes([server(blockers), client([vfs, elsewhere])], vfs) == {"fanotify": 10}
        two = [elsewhere, rpc(6, 6.1, mount=None, peer="10.9.0.9")]
        assert causes([server(blockers), client([vfs, *two])], vfs) == {"unknown": 10}
        vfs = call(10, 20, in_flight=True, begin_known=False, peer=SERVER)
        assert causes([server(blockers), client([vfs])], vfs) == {"fanotify": 10}
        idle = server(blockers, nfsd_threads=16)
        assert causes([idle, client([vfs])], vfs) == {"unknown": 10}
        assert causes([client([vfs])], vfs) == {"remote": 10}

    def test_addresses_that_differ_do_not_join(self):
        there = served(50, 54, held(50, 54), xid=7, peer="10.9.0.77")
        vfs = call(10, 14)
        under = rpc(10, 14, xid=7, parent_id=vfs.op_id)
        assert "fanotify" not in causes([server([there]), client([vfs, under])], vfs)

    def test_a_request_given_up_by_the_client_still_joins_by_address(self):
        there = served(50, 66, held(50, 66), xid=7)
        vfs = call(10, 13)
        under = rpc(10, 13, xid=7, parent_id=vfs.op_id)
        captures = [server([there]), client([vfs, under])]
        assert causes(captures, vfs) == {"fanotify": 3}
        assert [stall.operation for stall in analyse(captures).stalls] == [vfs]

    def test_one_xid_of_two_unknown_clients_joins_neither(self):
        there = [served(50, 54, held(50, 54), xid=7, peer=peer) for peer in ("a", "b")]
        vfs = call(10, 14)
        under = rpc(10, 14, xid=7, parent_id=vfs.op_id)
        captures = [server(there), client([vfs, under], addresses=frozenset())]
        assert "fanotify" not in causes(captures, vfs)

    def test_a_restarted_servers_capture_of_the_same_time_is_the_one_asked(self):
        before = server(end=START - timedelta(seconds=60), start=START - timedelta(seconds=90))
        blockers = [served(50, 60, held(50, 60, in_flight=True), in_flight=True) for _ in range(8)]
        vfs = call(12, 20, in_flight=True)
        stuck = rpc(12, 20, in_flight=True, xid=99, parent_id=vfs.op_id)
        captures = [before, server(blockers), client([vfs, stuck])]
        assert causes(captures, vfs) == {"fanotify": 8}

    def test_without_addresses_xid_and_duration_join(self):
        there = served(50, 54, held(50, 54), xid=7)
        vfs = call(10, 14)
        under = rpc(10, 14, xid=7, parent_id=vfs.op_id)
        nowhere = {"addresses": frozenset()}
        captures = [server([there], **nowhere), client([vfs, under], **nowhere)]
        assert causes(captures, vfs) == {"fanotify": 4}
        longer = served(50, 64, held(50, 64), xid=7)
        assert "fanotify" not in causes(
            [server([longer], **nowhere), client([vfs, under], **nowhere)], vfs
        )


class TestLocks:
    OTHER = ProcessKey(700, 4_000_000)

    def test_holder_outside_nfs_is_the_culprit(self):
        op = served(10, 14, wait(10, 13, LOCK_WAIT, waker=self.OTHER, waker_stack=UNLOCK))
        capture = server([op])
        assert causes([capture], op) == {"lock": 3, "running": 1}
        named = [c.culprit.process for c in Ledger([capture]).bill(0, op) if c.culprit]
        assert named == [self.OTHER]

    def test_a_thread_of_nfsd_at_work_under_a_lock_is_not_named(self):
        known = processes(Process(self.OTHER, comm="nfsd", kthread=True))
        op = served(10, 14, wait(10, 13, LOCK_WAIT, waker=self.OTHER, waker_stack=UNLOCK))
        capture = server([op], processes=known)
        assert causes([capture], op) == {"lock": 3, "running": 1}
        assert not any(charge.culprit for charge in Ledger([capture]).bill(0, op))

    @pytest.mark.parametrize("stack", [INTERRUPT, ("try_to_wake_up", "kick_pool"), ()])
    def test_a_waker_that_released_nothing_is_not_named(self, stack):
        op = served(10, 14, wait(10, 13, LOCK_WAIT, waker=self.OTHER, waker_stack=stack))
        assert not any(c.culprit for c in Ledger([server([op])]).bill(0, op))

    def test_blame_follows_into_the_holders_own_operation(self):
        thread = ProcessKey(640, 2_000_000)
        holder = served(9, 13, held(9.5, 12.9), process=thread)
        op = served(10, 14, wait(10, 13, LOCK_WAIT, waker=thread, waker_stack=UNLOCK))
        capture = server([holder, op])
        assert causes([capture], op) == {"fanotify": 2.9, "lock": 0.1, "running": 1}
        charge = max(Ledger([capture]).bill(0, op).items(), key=lambda item: item[1])[0]
        assert [link.cause for link in charge.chain] == ["lock", "fanotify"]
        assert charge.culprit is not None
        assert charge.culprit.name == "qaxsafed"

    def test_a_convoy_leads_to_what_its_first_member_waited_for(self):
        keys = [ProcessKey(1000 + i, 1) for i in range(200)]
        ops = [served(10, 11, held(10, 11), process=keys[0])]
        for i in range(1, 200):
            waker = {"waker": keys[i - 1], "waker_stack": UNLOCK}
            ops.append(
                served(
                    10,
                    11 + i / 1000,
                    wait(10, 11 + (i - 1) / 1000, LOCK_WAIT, **waker),
                    process=keys[i],
                )
            )
        assert causes([server(ops, nfsd_threads=256)], ops[-1])["fanotify"] == pytest.approx(
            1, abs=0.01
        )

    def test_a_loop_of_locks_ends(self):
        a, b = ProcessKey(1, 1), ProcessKey(2, 1)
        first = served(10, 14, wait(10, 13, LOCK_WAIT, waker=b, waker_stack=UNLOCK), process=a)
        second = served(10, 14, wait(10, 13, LOCK_WAIT, waker=a, waker_stack=UNLOCK), process=b)
        causes([server([first, second])], first)


class TestListeners:
    SLOW = ProcessKey(413, 3_200_000)

    def culprit(self, listeners, *waits, **changes):
        op = served(10, 14, *(waits or [held(10, 14, in_flight=True)]), in_flight=True)
        ledger = Ledger([server([op], listeners=tuple(listeners), **changes)])
        named = {charge.culprit.process for charge in ledger.bill(0, op) if charge.culprit}
        return named.pop() if named else None

    def test_who_answered_is_named(self):
        rows = [listener(self.SLOW, writes=3), listener(AGENT, writes=0)]
        assert self.culprit(rows) == self.SLOW

    def test_who_read_is_named_if_nobody_answered(self):
        rows = [listener(self.SLOW, reads=5, writes=0), listener(AGENT, reads=0, writes=0)]
        assert self.culprit(rows) == self.SLOW

    def test_the_only_holder_is_named_though_it_never_read(self):
        assert self.culprit([listener(reads=0, writes=0)]) == AGENT

    def test_two_strangers_who_did_nothing_are_not_guessed_between(self):
        rows = [listener(key, reads=0, writes=0) for key in (AGENT, self.SLOW)]
        assert self.culprit(rows) is None

    def test_workers_of_one_program_are_their_eldest(self):
        from tracer.model import Process

        family = {key: Process(key, exe="/opt/av/scand") for key in (AGENT, self.SLOW)}
        rows = [listener(key, reads=0, writes=0) for key in (self.SLOW, AGENT)]
        assert self.culprit(rows, processes=family) == AGENT

    def test_a_group_seen_by_fdinfo_only_is_told_by_elimination(self):
        assert self.culprit([listener(group=None, reads=None, writes=None)]) == AGENT
        other = listener(self.SLOW, None, reads=None, writes=None)
        mine = listener(group=None, reads=None, writes=None)
        assert self.culprit([mine, other]) is None
        waited_for = listener(group=None, reads=None, writes=None, blocked=8)
        assert self.culprit([waited_for, other]) == AGENT

    def test_an_answering_waker_is_proof_without_any_listener(self):
        assert self.culprit([], held(10, 14)) == AGENT

    def test_a_waker_in_an_interrupt_proves_nothing(self):
        assert self.culprit([], held(10, 14, waker_stack=INTERRUPT)) is None

    def test_of_two_agents_each_wait_names_its_own(self):
        rows = [listener(self.SLOW, "g2", writes=9), listener(AGENT, GROUP, writes=9)]
        waits = [wait(10, 14, FANOTIFY, fanotify_group="g2", in_flight=True)]
        assert self.culprit(rows, *waits) == self.SLOW


# What must hold for any input, however absurd.

ints = st.integers(-(10**7), 10**8)
stacks = st.sampled_from([FANOTIFY, IO_WAIT, LOCK_WAIT, RPC_WAIT, (), ("x",), ("svc_recv",)])
keys = st.sampled_from([None, AGENT, REDIS, ProcessKey(1, 1), ProcessKey(1, 2)])
waits = st.builds(
    Wait,
    kind=st.sampled_from(["blocked", "runnable"]),
    total_us=ints,
    count=st.integers(-1, 5),
    first_mono_us=ints,
    last_mono_us=ints,
    max_us=ints,
    in_flight=st.booleans(),
    stack=stacks,
    waker=keys,
    waker_stack=st.sampled_from([(), UNLOCK, INTERRUPT, ("fanotify_write",)]),
    fanotify_group=st.sampled_from([None, GROUP, "g2"]),
)
phase = st.none() | ints
operations = st.builds(
    Operation,
    host=st.just("h"),
    side=st.sampled_from(["server", "client"]),
    layer=st.sampled_from(["rpc", "vfs"]),
    op_id=st.integers(1, 12),
    op=st.sampled_from(["WRITE", "open"]),
    begin_mono_us=ints,
    wall_us=ints,
    parent_id=st.none() | st.integers(1, 12),
    xid=st.none() | st.integers(1, 3),
    process=keys,
    peer=st.sampled_from([None, SERVER, CLIENT, "127.0.0.1", "nonsense"]),
    mount=st.sampled_from([None, "/mnt"]),
    in_flight=st.booleans(),
    begin_known=st.booleans(),
    queue_us=phase,
    slot_us=phase,
    send_us=phase,
    remote_us=phase,
    wake_us=phase,
    waits_lost_us=ints,
    transmits=st.none() | st.integers(0, 3),
    status=st.none() | st.integers(-10014, 1),
    waits=st.lists(waits, max_size=4).map(tuple),
)


@settings(max_examples=150)
@given(st.lists(operations, max_size=10), st.lists(operations, max_size=10))
def test_any_input_adds_up(here, there):
    captures = [
        server(here, sides=("server", "client")),
        client(there, threshold_us=1000, nfsd_threads=2, sides=("client", "server")),
    ]
    ledger = Ledger(captures)
    for index, ops in enumerate((here, there)):
        for op in ops:
            parts = ledger.bill(index, op)
            assert sum(parts.values()) == max(0, op.wall_us)
            assert all(part > 0 for part in parts.values())
    analysis = analyse(captures)
    assert sum(analysis.causes.values()) == analysis.total_us
    assert sum(one.share for one in analysis.verdict.culprits) <= 1 + 1e-9
    sums: dict[tuple[str, str], float] = {}
    for row in analysis.ledger:
        assert 0 <= row.queued_us <= row.total_us
        sums[row.side, row.op] = sums.get((row.side, row.op), 0) + row.share
    assert all(total == pytest.approx(1) for total in sums.values())


@given(st.integers(0, 10**12), st.lists(st.floats(0, 1e12), max_size=20))
def test_split_is_exact(total, weights):
    parts = split(total, weights)
    assert all(part >= 0 for part in parts)
    assert sum(parts) == (total if sum(weights) > 0 else 0)


def test_bill_without_weights_is_unknown():
    assert bill(5, {}) == {UNKNOWN: 5}
    assert bill(5, {RUNNING: 0.0}) == {UNKNOWN: 5}
    assert bill(0, {RUNNING: 1.0}) == {}


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 1000)), min_size=1, max_size=20),
    st.integers(-10, 2500),
    st.integers(0, 2500),
)
def test_a_window_is_never_charged_more_than_its_length(served_times, start, length):
    stretches = [[Stretch(a, a + n, {RUNNING: 1.0})] for a, n in served_times]
    charged = Occupancy(2, stretches).charged(start, start + length)
    assert 0 <= sum(charged.values()) <= length + 1e-6


def convoy(length):
    """Return a server on which each thread waits for a lock that the one before it has."""
    keys = [ProcessKey(1000 + i, 1) for i in range(length)]
    ops = [served(10, 11, held(10, 11), process=keys[0])]
    for i, (holder, key) in enumerate(pairwise(keys)):
        waker = {"waker": holder, "waker_stack": UNLOCK}
        waited = wait(10, 11 + i / 1000, LOCK_WAIT, **waker)
        ops.append(served(10, 11 + (i + 1) / 1000, waited, process=key))
    return server(ops, nfsd_threads=2 * length)


def test_a_convoy_twice_as_long_is_little_more_than_twice_the_work():
    short, long = convoy(250), convoy(500)
    assert calls_made(lambda: analyse([long])) < 3 * calls_made(lambda: analyse([short]))


def test_of_a_long_convoy_the_chain_stays_short():
    analysis = analyse([convoy(1000)])
    assert max(len(one.chain) for one in analysis.verdict.culprits) <= 8
