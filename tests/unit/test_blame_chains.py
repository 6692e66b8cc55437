"""Chains: what processes waited for while operations waited for them."""

from __future__ import annotations

from typing import Any

import pytest
from blame_cases import (
    AGENT,
    ANSWER,
    IO_WAIT,
    LOCK_WAIT,
    QAXSAFED,
    SCHEDULE,
    UNLOCK,
    held,
    listener,
    named,
    processes,
    served,
    server,
    us,
    wait,
)

from tracer.blame import Analysis, analyse
from tracer.blame.means import looked_for, means_of
from tracer.model import DiskUse, Holder, HostCapture, Operation, Process, ProcessKey, Wait

ENGINE, OTHER = ProcessKey(500, 4_000_000), ProcessKey(600, 5_000_000)
KSOFTIRQD, BYSTANDER = ProcessKey(14, 0), ProcessKey(700, 6_000_000)
ASKER = f"{AGENT.pid} {AGENT.start_us}"
ENGINED = Process(ENGINE, comm="engined", exe="/opt/scan/engined")
BACKUPD = Process(OTHER, comm="backupd", exe="/opt/backup/backupd")

# As seen on 6.1.
SOCKET_WAIT = (
    "schedule_timeout",
    "unix_stream_read_generic",
    "unix_stream_recvmsg",
    "sock_read_iter",
    "vfs_read",
)
SOCKET_SEND = (
    "try_to_wake_up",
    "autoremove_wake_function",
    "__wake_up_common",
    "__wake_up_common_lock",
    "sock_def_readable",
    "unix_stream_sendmsg",
    "__sock_sendmsg",
    "sock_write_iter",
    "vfs_write",
)
POLL_WAIT = (*SCHEDULE, "schedule_hrtimeout_range", "do_sys_poll", "__x64_sys_poll")
TCP_WAIT = (*SCHEDULE, "schedule_timeout", "wait_woken", "sk_wait_data", "tcp_recvmsg_locked")
TCP_ARRIVES = (
    *("try_to_wake_up", "pollwake", "__wake_up_common", "sock_def_readable", "tcp_data_queue"),
    *("tcp_rcv_established", "tcp_v4_do_rcv", "tcp_v4_rcv", "ip_local_deliver_finish"),
    *("__netif_receive_skb_one_core", "process_backlog", "__napi_poll", "net_rx_action"),
    *("handle_softirqs", "run_ksoftirqd", "smpboot_thread_fn", "kthread"),
)
TCP_SENDS = (
    *TCP_ARRIVES[:-3],
    *("do_softirq", "__local_bh_enable_ip", "__dev_queue_xmit", "ip_finish_output2", "ip_output"),
    *("__ip_queue_xmit", "__tcp_transmit_skb", "tcp_write_xmit", "tcp_sendmsg", "__sock_sendmsg"),
)
FROM_OUTSIDE = tuple(f for f in TCP_ARRIVES if f != "process_backlog")
SLEEP = ("do_nanosleep", "hrtimer_nanosleep", "common_nsleep", "__x64_sys_clock_nanosleep")
FUTEX_WAIT = (*SCHEDULE, "futex_wait_queue", "__futex_wait", "futex_wait", "do_futex")
FUTEX_WAKE = ("try_to_wake_up", "wake_up_q", "futex_wake", "do_futex", "__x64_sys_futex")


def answer(begin: float, end: float, who: ProcessKey, *waits: Wait, **changes: Any) -> Operation:
    """What a process's main thread did until another could go on."""
    values: dict[str, Any] = {
        "host": "server",
        "side": "server",
        "layer": "answer",
        "op_id": round(begin * 1000) + who.pid,
        "op": "answer",
        "begin_mono_us": us(begin),
        "wall_us": us(end) - us(begin),
        "process": who,
        "tid": who.pid,
        "waits": waits,
    }
    return Operation(**(values | changes))


def from_engine(first: float, last: float, **changes: Any) -> Wait:
    """A wait of the agent for its engine's answer."""
    values: dict[str, Any] = {
        "waker": ENGINE,
        "waker_tid": ENGINE.pid,
        "waker_stack": SOCKET_SEND,
    }
    stack = changes.pop("stack", SOCKET_WAIT)
    return wait(first, last, stack, **(values | changes))


def scene(*answers: Operation, **changes: Any) -> HostCapture:
    """An open held by the agent from 1 s to 3 s, and what processes did meanwhile."""
    values: dict[str, Any] = {
        "operations": (served(1, 3, held(1, 3, waker_tid=AGENT.pid)),),
        "answers": answers,
        "processes": processes(QAXSAFED, ENGINED, BACKUPD),
    }
    return server(**(values | changes))


def chain(analysis: Analysis, rank: int = 0) -> list[tuple[str, str]]:
    return [(one.link.name, one.link.cause) for one in analysis.verdict.culprits[rank].chain]


def test_who_answers_the_agent_is_behind_it() -> None:
    analysis = analyse(
        [
            scene(
                answer(1, 3, AGENT, from_engine(1.1, 2.9)),
                answer(1.1, 2.9, ENGINE, wait(1.2, 2.9, SLEEP)),
            )
        ]
    )
    assert named(analysis) == [
        ("process", "engined", "fanotify"),
        ("process", "qaxsafed", "fanotify"),
    ]
    first = analysis.verdict.culprits[0]
    assert first.stall_us == us(1.8)
    assert first.direct_us == us(1.8)
    assert chain(analysis) == [("qaxsafed", "fanotify"), ("engined", "socket")]
    assert first.evidence[0] == (
        "qaxsafed waited for it 1 time (socket), 1.8 s in all, longest 1.8 s"
    )
    assert "qaxsafed waited for it (fanotify)" in analysis.verdict.summary


def test_what_was_not_seen_of_the_agent_stays_its_own() -> None:
    analysis = analyse([scene()])
    assert named(analysis) == [("process", "qaxsafed", "fanotify")]
    assert analysis.verdict.culprits[0].share == 1


def test_four_hops_to_who_uses_the_disk() -> None:
    capture = scene(
        answer(1, 3, AGENT, from_engine(1, 3)),
        answer(1, 3, ENGINE, wait(1, 3, IO_WAIT)),
        disk_use=(
            DiskUse(OTHER, "vdb", us(1), us(3), 100, us(1.8)),
            DiskUse(ENGINE, "vdb", us(1), us(3), 10, us(0.2)),
        ),
    )
    analysis = analyse([capture])
    assert named(analysis)[0] == ("process", "backupd", "disk")
    assert chain(analysis) == [
        ("qaxsafed", "fanotify"),
        ("engined", "socket"),
        ("vdb", "disk"),
        ("backupd", "disk"),
    ]
    # What the disk did for the engine itself is the engine's work.
    assert named(analysis)[1] == ("process", "engined", "fanotify")
    shares = [one.share for one in analysis.verdict.culprits]
    assert shares == pytest.approx([0.9, 0.1])


def test_a_disk_of_which_nobody_knows_ends_the_chain_before_it() -> None:
    analysis = analyse([scene(answer(1, 3, AGENT, wait(1, 3, IO_WAIT)))])
    assert named(analysis) == [("process", "qaxsafed", "fanotify")]


def test_a_cpu_that_the_agent_had_not_is_not_its_doing() -> None:
    """Whoever had it: the agent is behind the rest."""
    ran = wait(1.5, 2.5, (), kind="runnable", waker=None)
    analysis = analyse([scene(answer(1, 3, AGENT, ran))])
    assert named(analysis) == [("process", "qaxsafed", "fanotify")]
    assert analysis.verdict.culprits[0].stall_us == us(1)
    assert sum(row.total_us for row in analysis.ledger if row.cause == "cpu") == us(1)


def test_a_lock_behind_the_agent() -> None:
    lock = wait(1, 3, LOCK_WAIT, waker=OTHER, waker_stack=UNLOCK)
    analysis = analyse([scene(answer(1, 3, AGENT, lock))])
    assert named(analysis) == [("process", "backupd", "lock")]
    assert chain(analysis) == [("qaxsafed", "fanotify"), ("backupd", "lock")]
    (first,) = analysis.verdict.culprits
    assert first.direct_us == us(2)
    assert "qaxsafed waited for it 1 time (lock), 2 s in all, longest 2 s" in first.evidence


def test_a_holder_of_a_lock_that_waits_itself() -> None:
    op = served(1, 3, wait(1, 3, LOCK_WAIT, waker=OTHER, waker_tid=OTHER.pid, waker_stack=UNLOCK))
    capture = scene(answer(1, 3, OTHER, from_engine(1, 3)), operations=(op,))
    analysis = analyse([capture])
    assert named(analysis) == [("process", "engined", "lock")]
    assert chain(analysis) == [("backupd", "lock"), ("engined", "socket")]


def test_threads_of_one_process_are_one_link() -> None:
    reader = AGENT.pid + 1
    futex = wait(1, 3, FUTEX_WAIT, waker=AGENT, waker_tid=reader, waker_stack=FUTEX_WAKE)
    capture = scene(
        answer(1, 3, AGENT, futex),
        answer(1, 3, AGENT, from_engine(1, 3), tid=reader, op_id=7),
    )
    analysis = analyse([capture])
    assert named(analysis) == [("process", "engined", "fanotify")]
    assert chain(analysis) == [("qaxsafed", "fanotify"), ("engined", "socket")]


def test_processes_that_wait_for_each_other() -> None:
    asks = wait(1, 3, SOCKET_WAIT, waker=AGENT, waker_tid=AGENT.pid, waker_stack=SOCKET_SEND)
    capture = scene(
        answer(1, 3, AGENT, from_engine(1, 3)),
        answer(1, 3, ENGINE, asks),
    )
    analysis = analyse([capture])
    assert {name for _, name, _ in named(analysis)} <= {"qaxsafed", "engined"}
    assert sum(one.share for one in analysis.verdict.culprits) == pytest.approx(1)


@pytest.mark.parametrize(
    ("waits", "behind"),
    [
        pytest.param((from_engine(1.1, 2.9, stack=POLL_WAIT),), True, id="its message came last"),
        pytest.param(
            (from_engine(1.1, 2.0, stack=POLL_WAIT), wait(2.1, 2.9, POLL_WAIT)),
            False,
            id="it waited for something else afterwards",
        ),
        pytest.param(
            (from_engine(1.1, 2.9, stack=POLL_WAIT, count=5),), False, id="one of many messages"
        ),
        pytest.param(
            (from_engine(1.1, 2.9, waker_stack=("__do_softirq", *SOCKET_SEND)),),
            False,
            id="an interrupt of a process that sends",
        ),
        pytest.param((from_engine(1.1, 2.9, stack=SLEEP),), False, id="a message ends no sleep"),
    ],
)
def test_messages_to_those_who_look_at_several_things(
    waits: tuple[Wait, ...], behind: bool
) -> None:
    analysis = analyse([scene(answer(1, 3, AGENT, *waits))])
    assert ("engined" in [name for _, name, _ in named(analysis)]) == behind


def test_an_agent_that_has_not_answered() -> None:
    op = served(1, 3, held(1, 3, in_flight=True), in_flight=True)
    lock = wait(1, 3, LOCK_WAIT, waker=OTHER, waker_stack=UNLOCK)
    stuck = answer(1, 3, AGENT, lock, in_flight=True)
    analysis = analyse([scene(stuck, operations=(op,), listeners=(listener(),))])
    assert named(analysis) == [("process", "backupd", "lock")]


ONLY, ONE = Holder(ENGINE, "only-peer", ASKER), Holder(ENGINE, "peer", ASKER)
ANOTHER = Holder(OTHER, "peer", ASKER)


@pytest.mark.parametrize(
    ("stack", "arrives", "waker", "holders", "culprit"),
    [
        (TCP_WAIT, TCP_ARRIVES, KSOFTIRQD, (ONLY, ONLY), "engined"),
        (POLL_WAIT, TCP_ARRIVES, KSOFTIRQD, (ONLY,), "engined"),
        (TCP_WAIT, TCP_ARRIVES, OTHER, (ONLY,), "engined"),
        (SOCKET_WAIT, TCP_ARRIVES, KSOFTIRQD, (ONLY,), "qaxsafed"),
        (TCP_WAIT, FROM_OUTSIDE, KSOFTIRQD, (ONLY,), "qaxsafed"),
        (TCP_WAIT, TCP_ARRIVES, KSOFTIRQD, (ONE,), "qaxsafed"),
        (TCP_WAIT, TCP_ARRIVES, KSOFTIRQD, (ONLY, ONE), "qaxsafed"),
        (TCP_WAIT, TCP_ARRIVES, KSOFTIRQD, (ONE, ANOTHER), "qaxsafed"),
        (TCP_WAIT, TCP_ARRIVES, KSOFTIRQD, (), "qaxsafed"),
        # Among others, the one that was sending just then.
        (TCP_WAIT, TCP_SENDS, ENGINE, (ONE, ANOTHER), "engined"),
        (TCP_WAIT, TCP_ARRIVES, ENGINE, (ONE, ANOTHER), "qaxsafed"),
        (TCP_WAIT, TCP_SENDS, BYSTANDER, (ONE, ANOTHER), "qaxsafed"),
    ],
)
def test_data_by_tcp_is_of_a_process_at_the_other_end(
    stack: tuple[str, ...],
    arrives: tuple[str, ...],
    waker: ProcessKey,
    holders: tuple[Holder, ...],
    culprit: str,
) -> None:
    data = from_engine(1, 2.9, stack=stack, waker=waker, waker_stack=arrives)
    analysis = analyse([scene(answer(1, 3, AGENT, data), holders=holders)])
    assert named(analysis)[0] == ("process", culprit, "fanotify")


@pytest.mark.parametrize("asker", ["", "412", "412 x", "412 1 2", f"{10**30} 1", "-1 2", "٤ 1"])
def test_a_peer_of_whom_nobody_knows(asker: str) -> None:
    data = from_engine(1, 2.9, stack=TCP_WAIT, waker_stack=TCP_ARRIVES)
    holders = (Holder(ENGINE, "only-peer", asker),)
    analysis = analyse([scene(answer(1, 3, AGENT, data), holders=holders)])
    assert named(analysis)[0] == ("process", "qaxsafed", "fanotify")


@pytest.mark.parametrize(
    ("stack", "culprit"),
    [
        (SOCKET_WAIT, "engined"),
        (TCP_WAIT, "engined"),
        ((*SCHEDULE, "pipe_read"), "engined"),
        (POLL_WAIT, "engined"),
        (FUTEX_WAIT, "qaxsafed"),
    ],
)
def test_a_message_that_has_not_come(stack: tuple[str, ...], culprit: str) -> None:
    """Nobody has woken the agent: the waker is who has the other end of what it reads."""
    op = served(1, 3, held(1, 3, in_flight=True), in_flight=True)
    read = wait(1, 3, stack, waker=ENGINE, in_flight=True)
    stuck = answer(1, 3, AGENT, read, in_flight=True)
    analysis = analyse([scene(stuck, operations=(op,), listeners=(listener(),))])
    assert named(analysis) == [("process", culprit, "fanotify")]


def test_which_of_several_threads_has_not_answered_is_not_known() -> None:
    op = served(1, 3, held(1, 3, in_flight=True), in_flight=True)
    lock = wait(1, 3, LOCK_WAIT, waker=OTHER, waker_stack=UNLOCK)
    stuck = [answer(1, 3, AGENT, lock, in_flight=True, tid=tid, op_id=tid) for tid in (412, 413)]
    analysis = analyse([scene(*stuck, operations=(op,), listeners=(listener(),))])
    assert named(analysis) == [("process", "qaxsafed", "fanotify")]


@pytest.mark.parametrize(
    ("second", "culprits"),
    [
        (ENGINE, ["engined", "qaxsafed"]),
        (OTHER, ["qaxsafed"]),
        (None, ["qaxsafed"]),
    ],
)
def test_threads_that_all_wait_for_one_process(
    second: ProcessKey | None, culprits: list[str]
) -> None:
    """Whichever of them has the event: the one that began to wait last is taken."""
    op = served(1, 3, held(1, 3, in_flight=True), in_flight=True)
    reads = (
        wait(1, 3, SOCKET_WAIT, waker=ENGINE, in_flight=True),
        wait(1.5, 3, SOCKET_WAIT, waker=second, in_flight=True),
    )
    stuck = [
        answer(1, 3, AGENT, read, in_flight=True, tid=tid, op_id=tid)
        for tid, read in enumerate(reads, 412)
    ]
    analysis = analyse([scene(*stuck, operations=(op,), listeners=(listener(),))])
    assert [name for _, name, _ in named(analysis)] == culprits
    assert analysis.verdict.culprits[0].stall_us == us(1.5 if second == ENGINE else 2)


def test_what_had_the_cpu_is_no_answer() -> None:
    ran = wait(1, 3, (), kind="runnable", waker=OTHER, waker_tid=OTHER.pid)
    capture = scene(answer(1, 3, OTHER, from_engine(1, 3)), operations=(served(1, 3, ran),))
    assert named(analyse([capture])) == [("process", "backupd", "cpu")]


@pytest.mark.parametrize(
    ("stack", "waker_stack", "means"),
    [
        (SOCKET_WAIT, SOCKET_SEND, "socket"),
        (SOCKET_WAIT, (*SCHEDULE, "unix_release_sock", "unix_release", "__fput"), "socket"),
        (SOCKET_WAIT, ANSWER, None),
        ((*SCHEDULE, "pipe_read", "vfs_read"), ("try_to_wake_up", "pipe_write"), "pipe"),
        ((*SCHEDULE, "anon_pipe_write", "vfs_write"), ("anon_pipe_read", "vfs_read"), "pipe"),
        ((*SCHEDULE, "pipe_read", "vfs_read"), ("try_to_wake_up", "pipe_read"), None),
        (FUTEX_WAIT, FUTEX_WAKE, "futex"),
        ((*SCHEDULE, "do_wait", "kernel_wait4"), ("do_notify_parent", "do_exit"), "child"),
        (POLL_WAIT, SOCKET_SEND, None),
        ((), (), None),
    ],
)
def test_means(stack: tuple[str, ...], waker_stack: tuple[str, ...], means: str | None) -> None:
    assert means_of(stack, waker_stack) == means


def test_looking_for_whichever_comes_first() -> None:
    assert looked_for(POLL_WAIT, SOCKET_SEND) == "socket"
    assert looked_for(POLL_WAIT, FUTEX_WAKE) is None
    assert looked_for(SLEEP, SOCKET_SEND) is None


@pytest.mark.parametrize(
    ("other", "names"),
    [
        # Six workers that rename files of one folder: they have its lock and the CPUs in turn.
        ("/opt/a/renamed", [("process", "renamed", "lock")]),
        ("/opt/b/renamed", [("process", "renamed", "cpu")]),
    ],
)
def test_workers_of_one_program_that_wait_for_each_others_cpu_are_one_holder(
    other: str, names: list[tuple[str, str, str]]
) -> None:
    rows = (
        Process(ENGINE, comm="renamed", exe="/opt/a/renamed"),
        Process(OTHER, comm="renamed", exe=other),
    )
    locked = wait(1, 3, LOCK_WAIT, waker=ENGINE, waker_tid=ENGINE.pid, waker_stack=UNLOCK)
    runs_meanwhile = wait(1, 2.9, (), kind="runnable", waker=OTHER)
    analysis = analyse(
        [
            server(
                [served(1, 3, locked, nfs_op="OP_CREATE")],
                answers=(answer(1, 3, ENGINE, runs_meanwhile),),
                processes=processes(*rows),
                listeners=(),
            )
        ]
    )
    assert named(analysis)[:1] == names
