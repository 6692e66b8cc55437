"""Replies that cannot be sent: the client that takes none in is named, by the peer."""

from __future__ import annotations

import pytest
from blame_cases import (
    CLIENT,
    SCHEDULE,
    SERVER,
    START,
    UNLOCK,
    call,
    client,
    named,
    processes,
    rpc,
    served,
    server,
    us,
    wait,
)

from tracer.blame import analyse
from tracer.model import Process, ProcessKey, Sample

SLOW = "10.9.0.3"
HOG = ProcessKey(900, 7_000_000)
# As seen on 6.1.
SENDING = (
    *SCHEDULE,
    "schedule_timeout",
    "wait_woken",
    "sk_stream_wait_memory",
    "do_tcp_sendpages",
    "tcp_sendpage",
    "inet_sendpage",
    "kernel_sendpage",
    "svc_tcp_sendmsg",
    "svc_tcp_sendto",
    "svc_send",
    "nfsd",
)
BEHIND_IT = (*SCHEDULE, "schedule_preempt_disabled", "__mutex_lock.constprop.0", *SENDING[-3:])


def sending(stack=SENDING, **changes):
    return served(10, 20, wait(10, 20, stack, **changes), peer=SLOW, nfs_op="OP_READ")


def of_two_threads(*blockers, **changes):
    return server([*blockers, served(12, 20.001, queue=8)], nfsd_threads=2, **changes)


@pytest.mark.parametrize("second", [SENDING, BEHIND_IT])
def test_the_client_whose_replies_hold_all_threads_is_behind_the_queue(second):
    analysis = analyse([of_two_threads(sending(), sending(second)), client()])
    assert named(analysis) == [("host", SLOW, "network")]
    (first,) = analysis.verdict.culprits
    assert [(one.link.name, one.link.cause) for one in first.chain] == [
        ("nfsd", "queue"),
        (SLOW, "send"),
    ]
    assert first.direct_us == us(20)
    assert "2 of 2 nfsd threads were waiting for it for 10 s" in first.evidence
    assert f"The NFS client {SLOW}, or the network to it, caused" in analysis.verdict.summary
    assert "it did not take in the server's replies (network)" in analysis.verdict.summary


@pytest.mark.parametrize(
    ("had_it", "name", "cause"),
    [
        (wait(10, 19.9, (), kind="runnable", waker=HOG), "renderd", "cpu"),
        (wait(10, 19.9, SENDING), SLOW, "network"),
    ],
)
def test_who_was_given_the_connections_mutex_waited_for_what_he_did_who_had_it(had_it, name, cause):
    first, second = (
        Process(ProcessKey(170 + number, 1), comm="nfsd", kthread=True) for number in range(2)
    )
    rows = processes(first, second, Process(HOG, comm="renderd", exe="/opt/renderd"))
    ahead = served(9, 20, had_it, peer=SLOW, process=first.key)
    behind = wait(10, 20, BEHIND_IT, waker=first.key, waker_stack=UNLOCK)
    behind = served(9.5, 20.01, behind, peer=SLOW, process=second.key)
    analysis = analyse([server([ahead, behind], processes=rows, listeners=())])
    assert named(analysis) == [("host" if name == SLOW else "process", name, cause)]
    assert analysis.causes[cause] >= us(19.7)


def test_it_has_its_own_name_if_it_was_recorded():
    there = client(host="client2", addresses=frozenset({SLOW}))
    analysis = analyse([of_two_threads(sending(), sending()), there])
    assert named(analysis) == [("host", "client2", "network")]


@pytest.mark.parametrize(("waited", "name"), [(4, "client2"), (0.05, SERVER)])
def test_the_rest_of_its_network_is_its_own_too(waited, name):
    """What is left over of its RPCs is of the same link as the replies that did not get out."""
    vfs = call(10, 24)
    sent = rpc(10, 24, xid=5, parent_id=vfs.op_id, transmits=3)
    there = served(12, 18, wait(12, 12 + waited, SENDING), peer=SLOW, xid=5)
    lossy = (Sample(START, "tcp", None, "retrans_segs_per_s", 9),)
    here = client([vfs, sent], host="client2", addresses=frozenset({SLOW}), samples=lossy)
    analysis = analyse([server([there]), here])
    (first, *more) = analysis.verdict.culprits
    assert (first.culprit.name, first.cause, more) == (name, "network", [])
    assert first.stall_us == pytest.approx(us(8 + (waited if waited > 1 else 0)), abs=us(0.1))


def test_of_a_reply_under_way_too():
    stuck = [sending(in_flight=True) for _ in range(2)]
    assert named(analyse([of_two_threads(*stuck)])) == [("host", SLOW, "network")]


def test_the_peer_of_each_wait_counts():
    other = served(10, 20, wait(10, 20, SENDING), peer=CLIENT)
    analysis = analyse([of_two_threads(sending(), sending(), other)])
    assert {name for _, name, _ in named(analysis)} == {SLOW, CLIENT}


def test_a_threads_other_waits_for_the_network_are_no_clients():
    receives = (*SCHEDULE, "sk_wait_data", "tcp_recvmsg", "svc_tcp_recvfrom", "svc_recv")
    blockers = [sending(receives) for _ in range(2)]
    assert named(analyse([of_two_threads(*blockers, processes=processes())])) == []


def test_what_bulk_transfers_wait_a_little_for_is_not_named():
    reads = [
        served(begin, begin + 0.2, wait(begin, begin + 0.05, SENDING), peer=SLOW)
        for begin in range(10, 40)
    ]
    assert named(analyse([server(reads)])) == []
