"""Whole captures in, verdicts out."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from blame_cases import (
    AGENT,
    CLIENT,
    GROUP,
    IO_WAIT,
    LOCK_WAIT,
    OTHER,
    REDIS,
    RPC_WAIT,
    SERVER,
    START,
    UNLOCK,
    call,
    calls_made,
    client,
    held,
    incident,
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
from tracer.blame.evidence import held_times, stack_line
from tracer.model import Event, IntervalWaits, Process, ProcessKey, Sample


@pytest.fixture(scope="module")
def case():
    return incident()


@pytest.fixture(scope="module")
def joined(case):
    return analyse([case.server, case.client])


class TestIncident:
    def test_names_the_agent_for_nearly_all_of_it(self, joined):
        assert named(joined) == [("process", "qaxsafed", "fanotify")]
        first = joined.verdict.culprits[0]
        assert first.share > 0.99
        assert first.culprit.process == AGENT
        assert first.exe == "/opt/qaxsafe/qaxsafed"
        assert first.product == "QiAnXin endpoint security (qaxsafe)"
        assert not joined.verdict.clear

    def test_direct_time_is_the_time_held(self, case, joined):
        assert joined.verdict.culprits[0].direct_us == case.hold_us

    def test_names_the_victims_with_their_stall_time(self, case, joined):
        victims = {
            (share.victim.host, share.victim.comm, share.victim.pid): share
            for share in joined.verdict.culprits[0].victims
        }
        assert set(victims) == {("client", "opener", 900), ("client", "redis-server", 811)}
        assert victims["client", "opener", 900].operations == 30
        redis = [op for op in case.client.operations if op.process == REDIS and op.layer == "vfs"]
        truth = sum(op.wall_us for op in redis)
        assert victims["client", "redis-server", 811].stall_us == pytest.approx(truth, rel=0.01)

    def test_shows_the_chain_through_the_queue(self, joined):
        first = joined.verdict.culprits[0]
        assert [(item.link.name, item.link.cause) for item in first.chain] == [
            ("nfsd", "queue"),
            ("qaxsafed", "fanotify"),
        ]
        assert first.chain[1].stall_us == first.stall_us > first.chain[0].stall_us > 0

    def test_evidence_says_what_was_seen(self, joined):
        evidence = "\n".join(joined.verdict.culprits[0].evidence)
        assert f"answers fanotify group {GROUP}: 30 permission waits" in evidence
        assert "fanotify_handle_event < fsnotify < __fsnotify_parent" in evidence
        assert "8 of 8 nfsd threads were waiting for it for 46 s" in evidence
        assert "running since 2026-11-02T08:00:00Z" in evidence
        assert "listener marks: fanotify sdev:800010 mask:30000" in evidence

    def test_summary_is_one_sentence(self, joined):
        assert joined.verdict.summary == (
            "qaxsafed (pid 412, /opt/qaxsafe/qaxsafed) on server caused over 99 % of 19 min 10 s "
            "of NFS stalls: it held file opens (fanotify) while opener and redis-server on client "
            "waited."
        )

    def test_clears_network_and_disk_with_figures(self, joined):
        figures = {one.suspect: one.figures for one in joined.verdict.cleared}
        assert set(figures) == {"network", "disk", "cpu", "memory"}
        assert "TCP retransmits 0/s" in figures["network"]
        assert "0 of 38 slow RPCs sent more than once" in figures["network"]
        assert "vdb at most 1.5 % busy" in figures["disk"]

    def test_each_stall_counts_once(self, case, joined):
        assert len(joined.stalls) == 38
        assert all(stall.operation.layer == "vfs" for stall in joined.stalls)
        assert joined.total_us == sum(
            op.wall_us for op in case.client.operations if op.layer == "vfs"
        )

    def test_server_alone_names_the_agent_and_the_clients_address(self, case):
        analysis = analyse([case.server])
        assert named(analysis) == [("process", "qaxsafed", "fanotify")]
        assert [
            (share.victim.host, share.victim.comm) for share in analysis.verdict.culprits[0].victims
        ] == [(CLIENT, None)]

    def test_client_alone_names_the_server(self, case):
        analysis = analyse([case.client])
        assert named(analysis) == [("host", SERVER, "remote")]
        assert "network" not in {one.suspect for one in analysis.verdict.cleared}
        assert "record on the server too" in analysis.verdict.summary

    def test_advice_is_given_once_per_cause(self, joined):
        assert len(joined.verdict.advice) == 1
        assert "exclude the exported filesystem" in joined.verdict.advice[0]


def stuck(count=8, seconds=40, **changes):
    return [
        served(
            50,
            50 + seconds,
            held(50, 50 + seconds, in_flight=True),
            in_flight=True,
            begin_known=False,
            **changes,
        )
        for _ in range(count)
    ]


def stopped_agent():
    row = Process(AGENT, comm="qaxsafed", exe="/opt/qaxsafe/qaxsafed", state="T")
    return {
        "processes": processes(row),
        "listeners": (listener(group=None, reads=None, writes=None, blocked=8),),
    }


def test_agent_stopped_before_recording_is_named_while_all_is_stuck():
    analysis = analyse([server(stuck(), **stopped_agent())])
    assert named(analysis) == [("process", "qaxsafed", "fanotify")]
    assert len(analysis.in_flight) == 8
    evidence = analysis.verdict.culprits[0].evidence
    assert "process is stopped (state T)" in evidence
    assert "8 waits on it had not ended" in evidence


def test_stuck_before_recording_on_both_ends_counts_once():
    calls = [
        call(9, 49, in_flight=True, begin_known=False, peer=SERVER, process=ProcessKey(i, 1))
        for i in range(1, 32)
    ]
    analysis = analyse([server(stuck(), **stopped_agent()), client(calls)])
    assert len(analysis.stalls) == 31
    assert analysis.verdict.culprits[0].share == 1


def test_no_stalls_is_clear():
    analysis = analyse([server([served(10, 10.05)]), client()])
    assert analysis.verdict.clear
    assert analysis.verdict.summary == "Clear: no NFS operation took longer than 100 ms."
    assert analyse([]).verdict.clear


def test_background_work_counts_once_however_much_of_it_is_under_way() -> None:
    others = {"process": None, "comm": None}
    lines = [rpc(at, 10 + at / 10, xid=at, **others) for at in range(10)]
    elsewhere = rpc(0, 5, xid=90, mount="/mnt/other", **others)
    analysis = analyse([client([*lines, elsewhere])])
    assert len(analysis.stalls) == 11
    assert analysis.total_us == pytest.approx(us(10.9 + 5), abs=11)
    assert sum(row.total_us for row in analysis.ledger) == analysis.total_us


def test_much_background_work_at_once_is_as_much_the_culprits() -> None:
    others = {"process": None, "comm": None, "op": "WRITE"}
    lines = [rpc(10, 14, xid=at, **others) for at in range(500)]
    ops = [served(10, 14, held(10, 14), xid=at) for at in range(500)]
    analysis = analyse([server(ops), client(lines)])
    assert named(analysis) == [("process", "qaxsafed", "fanotify")]
    assert analysis.verdict.culprits[0].share > 0.99


def test_stalls_without_a_culprit_are_clear_of_culprits_and_say_so():
    analysis = analyse([server([served(10, 14, wait(10, 13, IO_WAIT))], listeners=())])
    assert analysis.verdict.clear
    assert "75 % disk, 25 % running" in analysis.verdict.summary


def test_agent_that_answers_at_once_is_cleared_with_its_figures():
    fast = IntervalWaits(
        us(20), "server", "COMPOUND", held(0, 0, total_us=30_000, count=1500, max_us=800)
    )
    slow_disk = served(10, 14, wait(10, 14, IO_WAIT))
    analysis = analyse(
        [server([slow_disk], interval_waits=(fast,), listeners=(listener(writes=1500),))]
    )
    assert analysis.verdict.clear
    figures = {one.suspect: one.figures for one in analysis.verdict.cleared}
    assert figures["qaxsafed (pid 412 on server)"] == (
        "1500 waits for its permission, 1500 answers, the longest took 800 us"
    )


def test_that_it_is_asked_at_all_is_not_held_against_an_agent():
    """A read that is slow for another reason: each moment of the agent's is none of a stall."""
    quick = [served(20 + n, 20.08 + n, held(20 + n, 20.009 + n)) for n in range(50)]
    analysis = analyse([server([served(10, 12, held(10, 12)), *quick])])
    assert analysis.verdict.culprits[0].direct_us == us(2)


def test_a_stack_in_words_leaves_out_what_traces_it():
    stack = ("__schedule", "schedule", "fsnotify", "bpf_trampoline_64", "security_file_open")
    assert stack_line(stack) == "fsnotify < security_file_open"


def test_nobody_is_cleared_of_permission_waits_whose_listener_is_unknown():
    waits = wait(10, 14, held(0, 1).stack, fanotify_group="other", in_flight=True)
    rows = (
        listener(AGENT, GROUP, reads=0, writes=0),
        listener(OTHER, "g2", reads=0, writes=0),
    )
    analysis = analyse([server([served(10, 14, waits)], listeners=rows)])
    assert analysis.verdict.clear
    assert not any("pid" in one.suspect for one in analysis.verdict.cleared)


def test_of_two_agents_the_slow_one_is_named_and_the_other_cleared():
    other = Process(OTHER, comm="clamonacc", exe="/usr/sbin/clamonacc")
    quick = held(10, 10.02, waker=OTHER, fanotify_group="g2")
    analysis = analyse(
        [
            server(
                [served(10, 14, quick, held(10.02, 14))],
                listeners=(listener(), listener(OTHER, "g2")),
                processes=server().processes | processes(other),
            )
        ]
    )
    assert named(analysis) == [("process", "qaxsafed", "fanotify")]
    assert "clamonacc (pid 500 on server)" in {one.suspect for one in analysis.verdict.cleared}


def test_two_faults_are_ranked_by_their_share():
    holder = Process(OTHER, comm="rsync", exe="/usr/bin/rsync")
    locked = {"waker": OTHER, "waker_stack": UNLOCK}
    ops = [served(10, 17, held(10, 17)), served(20, 23, wait(20, 23, LOCK_WAIT, **locked))]
    analysis = analyse([server(ops, processes=server().processes | processes(holder))])
    assert named(analysis) == [("process", "qaxsafed", "fanotify"), ("process", "rsync", "lock")]
    assert [one.share for one in analysis.verdict.culprits] == [0.7, 0.3]
    assert len(analysis.verdict.advice) == 2


def test_a_reused_pid_is_another_process():
    reborn = ProcessKey(AGENT.pid, AGENT.start_us + 5_000_000)
    rows = processes(
        Process(AGENT, comm="old", exe="/opt/old"), Process(reborn, comm="new", exe="/opt/new")
    )
    ops = [served(10, 14, held(10, 14)), served(20, 22, held(20, 22, waker=reborn))]
    analysis = analyse([server(ops, processes=rows, listeners=())])
    assert [(one.culprit.name, one.stall_us) for one in analysis.verdict.culprits] == [
        ("old", us(4)),
        ("new", us(2)),
    ]


def test_a_bystander_with_full_cpu_is_never_named():
    busy = Process(OTHER, comm="miner", exe="/usr/bin/miner")
    samples = tuple(
        replace(sample, value=100.0) if sample.metric == "cpu_busy_percent" else sample
        for sample in quiet_samples()
    )
    ops = [served(10, 14, wait(10, 14, ("schedule", "odd_wait")))]
    analysis = analyse([server(ops, processes=processes(busy), samples=samples, listeners=())])
    assert analysis.verdict.clear
    # Nothing is known of these four seconds, so nobody is cleared of them either.
    assert analysis.verdict.cleared == ()


def test_noise_stays_in_the_ledger_only():
    ops = [served(10, 30, wait(10, 29.97, IO_WAIT), held(29.97, 30))]
    analysis = analyse([server(ops)])
    assert analysis.verdict.clear
    assert {row.cause for row in analysis.ledger} == {"disk", "fanotify"}


def test_too_few_threads_are_a_setting():
    ops = [served(10, 20) for _ in range(8)] + [served(12, 20.001, queue=8)]
    analysis = analyse([server(ops, listeners=())])
    assert named(analysis) == [("setting", "nfsd threads", "threads")]
    assert "Too few nfsd threads on server" in analysis.verdict.summary
    (first,) = analysis.verdict.culprits
    assert first.direct_us == first.stall_us > 0
    assert (
        "up to 1 request waited at once for one of 8 threads: 8 s on average, "
        "to be at work for 1 ms"
    ) in first.evidence


def test_time_without_a_free_thread_is_evidence_or_clears():
    ops = [served(10, 20) for _ in range(8)] + [served(12, 20.001, queue=8)]
    figures = [("none_free_us", 3e6), ("none_free_times", 2), ("none_free_us", 5e6)]
    samples = [Sample(START, "nfsd", None, *figure) for figure in figures]
    (first,) = analyse([server(ops, listeners=(), samples=samples)]).verdict.culprits
    told = "no nfsd thread was free 2 times, for 8 s of 90 s in all, fast requests counted"
    assert told in first.evidence
    analysis = analyse([server([served(10, 20, held(10, 20))], samples=samples)])
    suspects = {one.suspect: one.figures for one in analysis.verdict.cleared}
    assert suspects["nfsd threads"].endswith(", none free for 8 s in all")


def test_agent_on_the_client_is_named_there():
    ops = [call(10, 14, held(10, 14), op="open")]
    analysis = analyse(
        [client(ops, processes=server().processes, listeners=(listener(),)), server()]
    )
    assert named(analysis) == [("process", "qaxsafed", "fanotify")]
    assert analysis.verdict.culprits[0].culprit.host == "client"


def test_network_only_stall_is_no_process():
    vfs = call(10, 14)
    sent_twice = rpc(10, 14, xid=5, parent_id=vfs.op_id, transmits=3)
    there = served(51.9, 51.901, xid=5)
    lossy = (*quiet_samples(), Sample(quiet_samples()[0].ts, "tcp", None, "retrans_segs_per_s", 9))
    analysis = analyse([server([there]), client([vfs, sent_twice], samples=lossy)])
    assert analysis.causes["network"] == pytest.approx(us(3.999), abs=1000)
    assert named(analysis) == [("host", SERVER, "network")]
    assert "1 of 1 slow RPCs sent more than once" in analysis.verdict.culprits[0].evidence
    assert "The network to 10.9.0.1 caused" in analysis.verdict.summary
    assert "network" not in {one.suspect for one in analysis.verdict.cleared}


def test_an_nfsd_that_was_stopped_is_no_network():
    looks = [(9, 8), (10, 0), (11, 0), (13, 0), (14, 8)]
    samples = [
        Sample(START + timedelta(seconds=at), "nfsd", None, "threads", threads)
        for at, threads in looks
    ]
    there = [served(9, 9.001, xid=1), served(13.9, 13.901, xid=5)]
    vfs = call(9.9, 14)
    rpcs = [rpc(9, 9.002, xid=1), rpc(9.9, 14, xid=5, parent_id=vfs.op_id, transmits=3)]
    wall_minus_mono_us = round(START.timestamp() * 1e6)
    capture = server(there, samples=samples, wall_minus_mono_us=wall_minus_mono_us)
    analysis = analyse([capture, client([vfs, *rpcs])])
    assert named(analysis) == [("setting", "stopped nfsd", "threads")]
    (first,) = analysis.verdict.culprits
    assert first.stall_us == pytest.approx(us(3), abs=20_000)
    assert "there were no nfsd threads for at least 3 s" in first.evidence
    assert analysis.verdict.summary.startswith("The stopped nfsd on server caused ")
    assert "it had no threads" in analysis.verdict.summary
    assert any("start it again" in line for line in analysis.verdict.advice)


class TestCounting:
    def test_idle_waits_are_no_stall(self):
        idle = wait(10, 20, ("schedule", "schedule_timeout", "svc_recv", "nfsd"))
        assert not analyse([server([served(10, 20, idle)])]).stalls

    def test_a_nested_call_is_part_of_its_caller(self):
        outer = call(10, 14, op="open")
        inner = call(11, 13, op="lookup", parent_id=outer.op_id)
        assert [s.operation for s in analyse([client([outer, inner])]).stalls] == [outer]

    def test_background_rpc_counts_unless_a_call_waited_for_it(self):
        writeback = rpc(10, 15, process=None, comm=None)
        assert len(analyse([client([writeback])]).stalls) == 1
        stack = ("io_schedule", "folio_wait_writeback", "nfs_wb_all", "nfs4_file_fsync")
        fsync = call(10, 15, wait(10, 15, stack))
        assert [s.operation for s in analyse([client([writeback, fsync])]).stalls] == [fsync]

    @pytest.mark.parametrize("op", ["SEQUENCE", "RENEW", "DELEGRETURN"])
    def test_a_lease_kept_in_the_background_is_nobodys_wait(self, op):
        renewal = rpc(10, 15, op=op, process=None, comm=None)
        assert analyse([client([renewal])]).stalls == []

    def test_rpc_of_a_process_counts_unless_a_stalled_call_overlaps(self):
        late = rpc(10, 15, parent_id=10**9)
        assert len(analyse([client([late])]).stalls) == 1
        overlapping = call(14, 16, wait(14, 16, RPC_WAIT))
        assert [s.operation for s in analyse([client([late, overlapping])]).stalls] == [overlapping]
        before = call(5, 9, wait(5, 9, RPC_WAIT))
        assert len(analyse([client([late, before])]).stalls) == 2

    def test_server_operation_counts_if_no_client_recorded_its_rpc(self):
        mine = served(50, 54, xid=1)
        theirs = served(50, 54, xid=2, peer="10.9.0.3")
        vfs = call(10, 14)
        analysis = analyse([server([mine, theirs]), client([vfs, rpc(10, 14, xid=1)])])
        assert {stall.operation for stall in analysis.stalls} == {vfs, theirs}
        assert {stall.victim.host for stall in analysis.stalls} == {"client", "10.9.0.3"}


def test_held_times():
    assert held_times([(0, 10), (2, 8), (2, 5)], 2) == (3, 6)
    assert held_times([], 2) == (0, 0)
    assert held_times([(0, 5), (5, 9)], 2) == (1, 0)


def crowded(openers):
    """Return the captures of an incident with so many operations, and half as many RPCs besides."""
    big = incident(openers=openers, threads=8, hold=0.05)
    others = [rpc(10 + i * 0.01, 400, process=None, comm=None) for i in range(openers // 2)]
    return [big.server, replace(big.client, operations=[*big.client.operations, *others])]


def test_of_ten_thousand_operations_the_agent_is_named():
    analysis = analyse(crowded(10_000))
    assert analysis.verdict.culprits[0].culprit.process == AGENT


def test_twice_as_many_operations_are_little_more_than_twice_the_work():
    few, many = crowded(500), crowded(1_000)
    assert calls_made(lambda: analyse(many)) < 3 * calls_made(lambda: analyse(few))


def held_up_by(keys):
    """Return operations of 4 s, each of which waited for a lock that one of the processes had."""
    return [
        served(
            10 * i, 10 * i + 4, wait(10 * i, 10 * i + 4, LOCK_WAIT, waker=key, waker_stack=UNLOCK)
        )
        for i, key in enumerate(keys, start=1)
    ]


def test_processes_of_one_program_are_named_once():
    keys = [ProcessKey(600 + i, 9_500_000 + i) for i in range(3)]
    rows = [Process(key, comm="fsfreeze", exe="fsfreeze", cgroup="/") for key in keys]
    rows.append(Process(OTHER, comm="scand", exe="/opt/scand", cgroup="/"))
    ops = held_up_by([*keys, OTHER])
    analysis = analyse([server(ops, processes=processes(*rows), listeners=())])
    first = analysis.verdict.culprits[0]
    assert named(analysis) == [("process", "fsfreeze", "lock"), ("process", "scand", "lock")]
    assert (first.share, first.direct_us, first.operations) == (0.75, us(12), 3)
    assert any("3 processes of this program" in line for line in first.evidence)
    assert [(one.link.pid, one.stall_us) for one in first.chain] == [(600, us(12))]


@pytest.mark.parametrize(
    ("paths", "culprits"), [(["/opt/scand"], 1), (["/opt/scand", "/a/scand"], 3)]
)
def test_one_that_ended_before_its_path_was_read_is_of_the_one_program_of_its_name(paths, culprits):
    keys = [ProcessKey(600 + i, 9_500_000 + i) for i in range(len(paths) + 1)]
    rows = [
        Process(key, comm="scand", exe=exe, cgroup="/")
        for key, exe in zip(keys, ["scand", *paths], strict=True)
    ]
    ops = held_up_by(keys)
    analysis = analyse([server(ops, processes=processes(*rows), listeners=())])
    assert len(analysis.verdict.culprits) == culprits


@pytest.mark.parametrize(
    ("exes", "culprits"),
    [
        ((None, "/opt/scand", "/opt/scand"), 1),
        ((None, "/opt/scand", "/a/other"), 3),
        ((None, None), 2),
    ],
)
def test_one_without_memory_is_of_the_program_whose_workers_call_themselves_so(exes, culprits):
    keys = [ProcessKey(600 + i, 9_500_000 + i) for i in range(len(exes))]
    rows = [
        Process(key, comm="scan-worker", exe=exe, cgroup="/")
        for key, exe in zip(keys, exes, strict=True)
    ]
    ops = held_up_by(keys)
    analysis = analyse([server(ops, processes=processes(*rows), listeners=())])
    assert len(analysis.verdict.culprits) == culprits
    if culprits == 1:
        assert analysis.verdict.culprits[0].culprit.name == "scand"


def test_two_scripts_of_one_interpreter_are_not_one_program():
    keys = [ProcessKey(600, 1), ProcessKey(601, 2)]
    rows = [Process(key, comm="python3", exe="/usr/bin/python3", cgroup="/") for key in keys]
    ops = held_up_by(keys)
    analysis = analyse([server(ops, processes=processes(*rows), listeners=())])
    assert [one.culprit.process for one in analysis.verdict.culprits] == keys


def test_a_network_that_adds_a_little_to_a_slow_operation_is_not_named():
    vfs = call(10, 10.15)
    under = rpc(10, 10.15, xid=5, parent_id=vfs.op_id)
    there = served(50.03, 50.12, xid=5)
    assert analyse([server([there]), client([vfs, under])]).verdict.clear


def test_threads_of_another_namespace_are_not_taken_for_stopped_ones():
    looks = [
        Sample(START + timedelta(seconds=at), "nfsd", None, "threads", 0) for at in (9, 11, 14)
    ]
    there = [served(9, 9.001, xid=1), served(13.9, 13.901, xid=5)]
    vfs = call(9.9, 14)
    rpcs = [rpc(9, 9.002, xid=1), rpc(9.9, 14, xid=5, parent_id=vfs.op_id)]
    capture = server(there, samples=looks, wall_minus_mono_us=round(START.timestamp() * 1e6))
    assert named(analyse([capture, client([vfs, *rpcs])])) == []


@pytest.mark.parametrize(
    ("started", "found"),
    [(10.2, [("host", SERVER, "grace")]), (3, []), (14.5, [])],
)
def test_connections_lost_as_nfsd_is_started_anew_are_no_networks_doing(started, found):
    text = "NFSD: starting 90-second grace period (net f0000000)"
    log = Event(START + timedelta(seconds=started), "kmsg", "kernel", text, 1)
    there = [served(9, 9.001, xid=1), served(13.9, 13.901, xid=5)]
    vfs = call(9.9, 14)
    rpcs = [rpc(9, 9.002, xid=1), rpc(9.9, 14, xid=5, parent_id=vfs.op_id, transmits=3)]
    wall_minus_mono_us = round(START.timestamp() * 1e6)
    capture = server(there, events=[log], wall_minus_mono_us=wall_minus_mono_us)
    assert named(analyse([capture, client([vfs, *rpcs])])) == found
